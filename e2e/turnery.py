"""Starts the built binary, for tests in Python; TURNERY_BIN names it."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request

ACCOUNT = "00112233445566778899aabbccddeeff"
TOKEN = "python-test-python-test-python-test-01"
BIN = os.environ.get("TURNERY_BIN", "target/release/turnery")


class Turnery:
    """A service with these arguments on loopback, and a certificate for 127.0.0.1 in `certificate`."""

    def __init__(self, *args, key=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        self.dir = tempfile.mkdtemp(prefix="turnery-python-")
        self.certificate = os.path.join(self.dir, "certificate.pem")
        private = os.path.join(self.dir, "key.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "3", "-subj", "/CN=turnery",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", private, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        env = dict(os.environ, TURNERY_BOOTSTRAP_ACCOUNT=ACCOUNT, TURNERY_BOOTSTRAP_TOKEN=TOKEN)
        command = [
            BIN, "serve", "--dev", "--data-dir", os.path.join(self.dir, "data"),
            "--tls-cert", self.certificate, "--tls-key", private, *args,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.process.stdout:
            ready = re.match(r"ready api=(\S+) turn=(\S+)", line)
            if ready:
                self.api = ready[1]
                self.listeners = [re.match(r"(\w+)://(.*):(\d+)", it).groups() for it in ready[2].split(",")]
                return
        self.stop()
        raise RuntimeError(f"{BIN} did not get ready")

    def listener(self, transport):
        """Where a transport is spoken: `(host, port)`."""
        return next((host, int(port)) for it, host, port in self.listeners if it == transport)

    def post(self, path, bearer, body):
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.api + path, json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def mint(self):
        """A credential: `(username, password)`."""
        key = self.post(f"/client/v4/accounts/{ACCOUNT}/calls/turn_keys", TOKEN, {"name": "python"})["result"]
        path = f"/v1/turn/keys/{key['uid']}/credentials/generate"
        minted = self.post(path, key["secret"], {"ttl": 600})["iceServers"]
        return minted["username"], minted["credential"]

    def stop(self):
        """Ends it; whether it ended well."""
        self.process.terminate()
        self.process.stdout.close()
        status = self.process.wait(timeout=15)
        shutil.rmtree(self.dir, ignore_errors=True)
        return status == 0
