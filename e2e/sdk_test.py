"""Cloudflare's Python SDK, unmodified, against the built binary: create, list, get, update, delete, and errors.

Run by scripts/test from a virtual environment; TURNERY_BIN names the binary.
"""

import os
import re
import subprocess
import tempfile
import unittest

import cloudflare
from cloudflare import Cloudflare

ACCOUNT = "00112233445566778899aabbccddeeff"
TOKEN = "python-sdk-python-sdk-python-sdk-0123"
BIN = os.environ.get("TURNERY_BIN", "target/release/turnery")


class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        env = dict(os.environ, TURNERY_BOOTSTRAP_ACCOUNT=ACCOUNT, TURNERY_BOOTSTRAP_TOKEN=TOKEN)
        command = [
            BIN, "serve", "--dev", "--data-dir", cls.dir.name, "--api-listen", "127.0.0.1:0",
            "--turn-listen", "udp://127.0.0.1:0", "--turn-listen", "tcp://127.0.0.1:0",
        ]
        cls.server = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in cls.server.stdout:
            ready = re.match(r"ready api=(\S+)", line)
            if ready:
                cls.api = ready.group(1)
                break
        else:
            raise AssertionError("the service did not start")
        cls.client = cls.client_with(TOKEN)

    @classmethod
    def tearDownClass(cls):
        cls.server.terminate()
        cls.server.wait(10)
        cls.server.stdout.close()
        cls.dir.cleanup()

    @classmethod
    def client_with(cls, token):
        return Cloudflare(api_token=token, base_url=f"{cls.api}/client/v4", max_retries=0)

    def test_a_key_lives_and_dies(self):
        turn = self.client.calls.turn
        made = turn.create(account_id=ACCOUNT, name="first")
        self.assertRegex(made.uid, "^[0-9a-f]{32}$")
        self.assertRegex(made.key, "^[0-9a-f]{64}$")
        self.assertEqual(made.name, "first")
        self.assertIn(made.uid, [key.uid for key in turn.list(account_id=ACCOUNT)])
        self.assertEqual(turn.get(made.uid, account_id=ACCOUNT).name, "first")
        self.assertEqual(turn.update(made.uid, account_id=ACCOUNT, name="second").name, "second")
        self.assertEqual(turn.delete(made.uid, account_id=ACCOUNT).uid, made.uid)
        self.assertNotIn(made.uid, [key.uid for key in turn.list(account_id=ACCOUNT)])
        with self.assertRaises(cloudflare.NotFoundError) as caught:
            turn.get(made.uid, account_id=ACCOUNT)
        self.assertEqual(caught.exception.errors[0].code, 20008)

    def test_who_is_nobody_is_told_so(self):
        with self.assertRaises(cloudflare.AuthenticationError) as caught:
            self.client_with("nobody-nobody-nobody-nobody-nobody").calls.turn.list(account_id=ACCOUNT)
        self.assertEqual(caught.exception.errors[0].code, 10000)
        with self.assertRaises(cloudflare.PermissionDeniedError):
            self.client.calls.turn.create(account_id="ff" * 16)

    def test_a_wrong_body_is_named(self):
        with self.assertRaises(cloudflare.BadRequestError) as caught:
            self.client.calls.turn.create(account_id=ACCOUNT, name="n" * 256)
        self.assertIn("name", caught.exception.errors[0].message)


if __name__ == "__main__":
    unittest.main()
