// A certificate for loopback, and a home directory whose browser trusts it. Flags by which a browser trusts everybody do
// not reach what WebRTC does.

import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** `{ certificate, key, home, remove }` for this address: two PEM files, a directory, and what removes them all. */
export async function makeTrusted(address = '127.0.0.1') {
  const home = await mkdtemp(path.join(tmpdir(), 'turnery-trust-'));
  const [certificate, key] = ['certificate.pem', 'key.pem'].map((name) => path.join(home, name));
  await run('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '3',
    '-subj', '/CN=turnery end to end', '-addext', `subjectAltName=IP:${address},DNS:localhost`,
    '-keyout', key, '-out', certificate,
  ]);
  const database = path.join(home, '.pki', 'nssdb');
  await mkdir(database, { recursive: true });
  await run('certutil', ['-d', `sql:${database}`, '-N', '--empty-password']);
  await run('certutil', ['-d', `sql:${database}`, '-A', '-n', 'turnery', '-t', 'C,,', '-i', certificate]);
  return { certificate, key, home, remove: () => rm(home, { recursive: true, force: true }) };
}
