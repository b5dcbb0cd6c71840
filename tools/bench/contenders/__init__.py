"""Contenders: one module for each program in the race, all behind the protocol of contender.py."""

from tools.bench.contenders.libtorrent import Libtorrent, LibtorrentV1
from tools.bench.contenders.rsync import Rsync
from tools.bench.contenders.shoal import Shoal
from tools.bench.contenders.syncthing import Syncthing
from tools.bench.contenders.wormhole import Wormhole

CONTENDERS = (Shoal, Libtorrent, LibtorrentV1, Wormhole, Syncthing, Rsync)
RIVALS = tuple(kind.name for kind in CONTENDERS if kind is not Shoal)
