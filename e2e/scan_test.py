"""sslyze, a TLS scanner, against the relay's TLS port and the API's: what is spoken is TLS 1.2 and 1.3 with forward
secrecy and AEAD, and none of the faults that it knows is found. Run by scripts/test from a virtual environment."""

import json
import os
import subprocess
import sys
import unittest

from turnery import Turnery

DEADLINE_SECS = 120
SCANS = (
    "--certinfo --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 --compression --reneg --openssl_ccs --heartbleed "
    "--robot --fallback --ems --resum --elliptic_curves --early_data --mozilla_config=disable"
).split()
RSA = ("rsa:2048",)


def suites_of_1_2(signature):
    ciphers = ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")
    return {f"TLS_ECDHE_{signature}_WITH_{cipher}" for cipher in ciphers}


SUITES_OF_1_3 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


class Scan(unittest.TestCase):
    def scan(self, signature, **options):
        """Scans both ports; what each was found to be."""
        server = Turnery(
            "--api-listen", "https://127.0.0.1:0", "--turn-listen", "udp://127.0.0.1:0",
            "--turn-listen", "tls://127.0.0.1:0", **options,
        )  # fmt: skip
        try:
            turn = ":".join(map(str, server.listener("tls")))
            api = server.api.removeprefix("https://")
            found = os.path.join(server.dir, "found.json")
            command = [os.path.join(os.path.dirname(sys.executable), "sslyze"), *SCANS, "--quiet", "--json_out", found]
            subprocess.run([*command, turn, api], timeout=DEADLINE_SECS, capture_output=True, check=True)
            with open(found, encoding="utf-8") as file:
                results = json.load(file)["server_scan_results"]
        finally:
            self.assertTrue(server.stop(), "a scan must not harm it")
        self.assertEqual(len(results), 2)
        for result in results:
            where = "turn" if str(result["server_location"]["port"]) == turn.rpartition(":")[2] else "api"
            with self.subTest(port=where):
                self.assertEqual(result["scan_status"], "COMPLETED")
                self.judge(result["scan_result"], suites_of_1_2(signature))
                if where == "api":
                    # It is tried with a request of HTTP, which the TURN port does not answer.
                    early = result["scan_result"]["tls_1_3_early_data"]
                    self.assertEqual((early["status"], early["result"]), ("COMPLETED", {"supports_early_data": False}))

    def judge(self, scans, suites):
        def result(name):
            self.assertEqual(scans[name]["status"], "COMPLETED", name)
            return scans[name]["result"]

        def accepted(version):
            return result(f"{version}_cipher_suites")["accepted_cipher_suites"]

        for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
            self.assertEqual(accepted(old), [], old)
        names = {version: {it["cipher_suite"]["name"] for it in accepted(version)} for version in ("tls_1_2", "tls_1_3")}
        self.assertEqual(names, {"tls_1_2": suites, "tls_1_3": SUITES_OF_1_3})
        for suite in accepted("tls_1_2") + accepted("tls_1_3"):
            self.assertFalse(suite["cipher_suite"]["is_anonymous"], suite)
            self.assertEqual(suite["ephemeral_key"]["type_name"], "ECDH", suite)
        self.assertFalse(result("tls_compression")["supports_compression"])
        renegotiation = result("session_renegotiation")
        self.assertEqual(renegotiation["client_renegotiations_success_count"], 0)
        self.assertFalse(renegotiation["is_vulnerable_to_client_renegotiation_dos"])
        self.assertTrue(renegotiation["supports_secure_renegotiation"])
        self.assertFalse(result("heartbleed")["is_vulnerable_to_heartbleed"])
        self.assertFalse(result("openssl_ccs_injection")["is_vulnerable_to_ccs_injection"])
        self.assertIn("NOT_VULNERABLE", result("robot")["robot_result"])
        self.assertTrue(result("tls_fallback_scsv")["supports_fallback_scsv"])
        self.assertTrue(result("tls_extended_master_secret")["supports_ems_extension"])
        curves = {it["name"] for it in result("elliptic_curves")["supported_curves"]}
        self.assertEqual(curves, {"X25519", "secp256r1", "secp384r1"})
        deployed = result("certificate_info")["certificate_deployments"]
        self.assertEqual([len(it["received_certificate_chain"]) for it in deployed], [1])

    def test_with_an_ecdsa_certificate(self):
        self.scan("ECDSA")

    def test_with_an_rsa_certificate(self):
        self.scan("RSA", key=RSA)


if __name__ == "__main__":
    unittest.main(verbosity=2)
