"""A machine to observe: a folder with a `sys` and a `proc` of its own."""

from pathlib import Path

_HEADER = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"


class Machine:
    """Starts without any power supply and without a route."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._routes: list[str] = []
        self._routes_6: list[str] = []
        (root / "sys/class/power_supply").mkdir(parents=True)
        (root / "proc/net").mkdir(parents=True)
        self._write()

    def supply(self, name: str, **files: object) -> None:
        """A power supply with these files: `type="Mains", online=1`."""
        folder = self.root / "sys/class/power_supply" / name
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / file).write_text(f"{content}\n")

    def route(
        self,
        interface: str,
        metric: int = 100,
        destination: str = "00000000",
        mask: str = "00000000",
        flags: str = "0003",
    ) -> None:
        """An IPv4 route, the default one unless told."""
        fields = (interface, destination, "0101A8C0", flags, 0, 0, metric, mask, 0, 0, 0)
        self._routes.append("\t".join(map(str, fields)))
        self._write()

    def no_routes(self) -> None:
        """Out of every network."""
        self._routes, self._routes_6 = [], []
        self._write()

    def route_6(self, interface: str, metric: int = 1024, flags: int = 0x3) -> None:
        """An IPv6 default route."""
        zero = "0" * 32
        fields = (zero, "00", zero, "00", "f" * 32, f"{metric:08x}", "1", "0", f"{flags:08x}")
        self._routes_6.append(" ".join((*fields, f"    {interface}")))
        self._write()

    def interface(
        self,
        name: str,
        bus: str = "",
        driver: str = "",
        devtype: str = "",
        wireless: bool = False,
        lower: tuple[str, ...] = (),
        type_: int = 1,
    ) -> None:
        """A network interface as sysfs shows it: its bus and driver; what a virtual one is on."""
        folder = self.root / "sys/class/net" / name
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{type_}\n")
        (folder / "uevent").write_text(
            f"DEVTYPE={devtype}\n" * bool(devtype) + f"INTERFACE={name}\n"
        )
        if wireless:
            (folder / "phy80211").mkdir()
        if bus:
            (folder / "device").mkdir()
            (folder / "device/subsystem").symlink_to(f"../../../../bus/{bus}")
        if driver:
            (folder / "device/driver").symlink_to(f"../../../../bus/{bus}/drivers/{driver}")
        for below in lower:
            (folder / f"lower_{below}").symlink_to(f"../{below}")

    def clock_chip(self) -> None:
        """A clock that runs without power."""
        (self.root / "sys/class/rtc/rtc0").mkdir(parents=True)

    def timesyncd(self, synchronized: bool) -> None:
        """The time service of systemd runs, and may have reached a server."""
        folder = self.root / "run/systemd/timesync"
        folder.mkdir(parents=True, exist_ok=True)
        if synchronized:
            (folder / "synchronized").touch()

    def _write(self) -> None:
        (self.root / "proc/net/route").write_text("\n".join([_HEADER, *self._routes, ""]))
        (self.root / "proc/net/ipv6_route").write_text("\n".join([*self._routes_6, ""]))
