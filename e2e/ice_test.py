"""aioice, an ICE and TURN client that shares no code with browsers or with this project: two relay-only peers exchange
data both ways over UDP, TCP and TLS. Run by scripts/test from a virtual environment."""

import asyncio
import os
import unittest

from aioice import Connection, TransportPolicy
from turnery import Turnery

MESSAGES = 200
DEADLINE_SECS = 30


class Ice(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Turnery(
            "--api-listen", "127.0.0.1:0", "--turn-listen", "udp://127.0.0.1:0",
            "--turn-listen", "tcp://127.0.0.1:0", "--turn-listen", "tls://127.0.0.1:0",
        )  # fmt: skip
        # What the client's TLS trusts: this certificate and nobody else's.
        os.environ["SSL_CERT_FILE"] = cls.server.certificate

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop(), "it should end cleanly"

    def peer(self, transport, controlling, credential):
        username, password = credential
        return Connection(
            ice_controlling=controlling,
            turn_server=self.server.listener(transport),
            turn_username=username,
            turn_password=password,
            turn_ssl=transport == "tls",
            turn_transport="udp" if transport == "udp" else "tcp",
            transport_policy=TransportPolicy.RELAY,
        )

    async def exchange(self, transport):
        credential = self.server.mint()
        near, far = (self.peer(transport, it, credential) for it in (True, False))
        for peer, other in ((near, far), (far, near)):
            await peer.gather_candidates()
            self.assertEqual({it.type for it in peer.local_candidates}, {"relay"})
            other.remote_username, other.remote_password = peer.local_username, peer.local_password
            for candidate in [*peer.local_candidates, None]:
                await other.add_remote_candidate(candidate)
        await asyncio.gather(near.connect(), far.connect())
        for n in range(MESSAGES):
            message = f"{transport} {n} ".encode().ljust(4 + 5 * n, b"x")
            await near.send(message)
            self.assertEqual(await far.recv(), message)
            await far.send(message[::-1])
            self.assertEqual(await near.recv(), message[::-1])
        await near.close()
        await far.close()

    def check(self, transport):
        asyncio.run(asyncio.wait_for(self.exchange(transport), DEADLINE_SECS))

    def test_udp(self):
        self.check("udp")

    def test_tcp(self):
        self.check("tcp")

    def test_tls(self):
        self.check("tls")

    def test_tls_with_a_certificate_that_is_not_trusted(self):
        trusted = os.environ.pop("SSL_CERT_FILE")
        try:
            # It says nothing of why, but has no candidate.
            with self.assertRaises((AssertionError, OSError)):
                self.check("tls")
        finally:
            os.environ["SSL_CERT_FILE"] = trusted


if __name__ == "__main__":
    unittest.main(verbosity=2)
