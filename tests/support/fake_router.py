"""A router that speaks just enough UPnP-IGD for one mapping: fake_router.py LAN_IP OUTER_IP LOG.

Answers SSDP searches and the SOAP calls of WANIPConnection:1; writes every call to the log, a line each.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT = 5000
IGD = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>{IGD}</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType>
<serviceId>a</serviceId><controlURL>/c</controlURL><eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service>
</serviceList><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
<serviceList><service><serviceType>{SERVICE}</serviceType><serviceId>b</serviceId>
<controlURL>/ctl</controlURL><eventSubURL>/ev</eventSubURL><SCPDURL>/scpd</SCPDURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"""


def main(lan_ip: str, outer_ip: str, log: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(DESCRIPTION)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            action = self.headers["SOAPAction"].strip('"').rpartition("#")[2]
            fields = dict(re.findall(r"<(New\w+)[^>]*>([^<]*)</", body))
            words = [
                "NewExternalPort",
                "NewProtocol",
                "NewInternalClient",
                "NewInternalPort",
                "NewLeaseDuration",
            ]
            with open(log, "a") as file:
                file.write(" ".join([action, *(fields[w] for w in words if w in fields)]) + "\n")
            told = {
                "GetStatusInfo": "<NewConnectionStatus>Connected</NewConnectionStatus>"
                "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError><NewUptime>9</NewUptime>",
                "GetExternalIPAddress": f"<NewExternalIPAddress>{outer_ip}</NewExternalIPAddress>",
            }.get(action, "")
            self._say(
                '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
                f'<u:{action}Response xmlns:u="{SERVICE}">{told}</u:{action}Response></s:Body></s:Envelope>'
            )

        def _say(self, text: str) -> None:
            data = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    threading.Thread(target=HTTPServer((lan_ip, PORT), Handler).serve_forever, daemon=True).start()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", 1900))
    group = struct.pack("4s4s", socket.inet_aton("239.255.255.250"), socket.inet_aton(lan_ip))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    while True:
        data, asker = sock.recvfrom(2000)
        if data.startswith(b"M-SEARCH"):
            answer = (
                f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {IGD}\r\n"
                f"USN: uuid:1::{IGD}\r\nEXT:\r\nSERVER: fake\r\nLOCATION: http://{lan_ip}:{PORT}/desc.xml\r\n\r\n"
            )
            sock.sendto(answer.encode(), asker)


if __name__ == "__main__":
    main(*sys.argv[1:4])
