"""Testing: peers that lie, a disk that fails, devices as processes; typed like the product."""
