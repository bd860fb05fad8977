"""``python -m tests.support.graph``: the emulator as a process of its own."""

import argparse
import json
import signal
import threading

from tests.support.graph.emulator import Emulator
from tests.support.graph.knobs import Flavour
from tests.support.graph.messages import Host


def main() -> None:
    """Print where everything is, then serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="tests.support.graph", description=__doc__)
    parser.add_argument("--flavour", choices=[f.value for f in Flavour], default="business")
    parser.add_argument("--port", type=int, default=0, help="of the API; 0: any")
    parser.add_argument("--content-port", type=int, default=0)
    parser.add_argument("--upload-port", type=int, default=0)
    parser.add_argument("--imds-port", type=int, default=0)
    parser.add_argument("--sign-in-port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sign-in", action="store_true", help="the authority over TLS as well")
    parser.add_argument("--imds", action="store_true", help="the metadata service as well")
    parser.add_argument("--preset", action="append", default=[])
    given = parser.parse_args()
    ports = {
        Host.API: given.port,
        Host.CONTENT: given.content_port,
        Host.UPLOAD: given.upload_port,
        Host.IMDS: given.imds_port,
    }
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with Emulator(given.flavour, seed=given.seed, ports=ports) as emu:
        for name in given.preset:
            emu.preset(name)
        told = {"api": emu.api_url, "content": emu.content_url, "upload": emu.upload_url}
        told |= {"drive": emu.drive_id, "root": emu.drive.root.id}
        if given.sign_in:
            sign_in = emu.sign_in(port=given.sign_in_port)
            told |= {"authority": sign_in.url, "ca_file": sign_in.ca_file}
        if given.imds:
            told["imds"] = emu.imds()
        print(json.dumps(told), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
