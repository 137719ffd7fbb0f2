// Starts the built binary the way an operator would, and talks to it over HTTP only.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const BINARY = process.env.TURNERY_BIN ?? fileURLToPath(new URL('../target/release/turnery', import.meta.url));
const READY_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 10_000;

/** Listeners on loopback, on ports the kernel chooses. */
export const RANDOM_PORTS = [
  '--api-listen', '127.0.0.1:0',
  '--turn-listen', 'udp://127.0.0.1:0',
  '--turn-listen', 'tcp://127.0.0.1:0',
];

/** A service with the production defaults, but for loopback addresses, which have to be allowed in so many words. */
export const LOOPBACK = ['--public-host', '127.0.0.1', '--relay-address', '127.0.0.1', '--allow-peer', '127.0.0.0/8'];

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/**
 * Runs `turnery serve` with an empty data directory and a known account and token, and waits for its ready line.
 * `await server.stop()` ends it with SIGTERM and requires a clean exit.
 */
export async function startTurnery({ args = LOOPBACK, env = {}, ports = RANDOM_PORTS } = {}) {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'turnery-e2e-'));
  const account = randomBytes(16).toString('hex');
  const token = randomBytes(32).toString('hex');
  const child = spawn(BINARY, ['serve', '--data-dir', dataDir, ...ports, ...args], {
    env: { ...process.env, TURNERY_BOOTSTRAP_ACCOUNT: account, TURNERY_BOOTSTRAP_TOKEN: token, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);

  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => (output[name] += text));
  }
  const exited = new Promise((resolve) => {
    child.once('error', (error) => resolve({ error }));
    child.once('close', (code, signal) => resolve({ code, signal }));
  }).finally(() => running.delete(child));
  const told = () => `\nstdout:\n${output.stdout}\nstderr:\n${output.stderr}`;

  const stop = async () => {
    child.kill('SIGTERM');
    const end = await Promise.race([exited, sleep(STOP_DEADLINE_MS, 'late', { ref: false })]);
    if (end === 'late') child.kill('SIGKILL');
    await rm(dataDir, { recursive: true, force: true });
    assert.notEqual(end, 'late', `no exit within ${STOP_DEADLINE_MS} ms of SIGTERM${told()}`);
    assert.deepEqual(end, { code: 0, signal: null }, `SIGTERM should end it cleanly${told()}`);
  };

  let ready;
  try {
    ready = await readyLine(child.stdout, output, exited);
  } catch (cause) {
    child.kill('SIGKILL');
    await exited;
    await rm(dataDir, { recursive: true, force: true });
    throw new Error(`${BINARY} did not get ready: ${cause.message}${told()}`);
  }
  return new Turnery({ ...ready, account, token, dataDir, output, stop });
}

async function readyLine(stdout, output, exited) {
  const line = new Promise((resolve) => {
    const look = () => {
      const found = /^ready (.*)\n/m.exec(output.stdout);
      if (found) resolve(parseReady(found[1]));
    };
    stdout.on('data', look);
  });
  const first = await Promise.race([line, exited, sleep(READY_DEADLINE_MS, 'late', { ref: false })]);
  if (first === 'late') throw new Error(`no ready line within ${READY_DEADLINE_MS} ms`);
  if (!first.api) throw new Error(`it ended first: ${JSON.stringify(first)}${first.error ? ` ${first.error.message}` : ''}`);
  return first;
}

/** `api=http://127.0.0.1:1 turn=udp://127.0.0.1:2,tcp://127.0.0.1:3`, as the fields of an object. */
export function parseReady(text) {
  const fields = Object.fromEntries(text.trim().split(' ').map((field) => field.split(/=(.*)/s, 2)));
  assert.match(fields.api, /^http:\/\/\S+:\d+$/, `ready line: ${text}`);
  const turn = fields.turn.split(',').map((listener) => {
    const [, transport, host, port] = /^(udp|tcp|tls|dtls):\/\/(.+):(\d+)$/.exec(listener) ?? assert.fail(`ready line: ${text}`);
    return { transport, host, port: Number(port) };
  });
  return { api: fields.api, turn };
}

class Turnery {
  constructor(fields) {
    Object.assign(this, fields);
  }

  get accountApi() {
    return `${this.api}/client/v4`;
  }

  get keysPath() {
    return `/client/v4/accounts/${this.account}/calls/turn_keys`;
  }

  /** The listener of one transport, `{ host, port }`. */
  listener(transport) {
    return this.turn.find((listener) => listener.transport === transport);
  }

  /** One HTTP request, exactly as given: no header is added but Host and the length. */
  request(method, target, { headers = {}, body } = {}) {
    const payload = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const sent = http.request(new URL(target, this.api), { method, headers, agent: false }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk) => (text += chunk));
        response.on('error', reject);
        response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, text }));
      });
      sent.on('error', reject);
      if (payload !== undefined) sent.setHeader('content-length', Buffer.byteLength(payload));
      sent.end(payload);
    });
  }

  /** A new TURN key, `{ uid, secret }`. */
  async createKey(name = 'e2e') {
    const headers = { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' };
    const response = await this.request('POST', this.keysPath, { headers, body: { name } });
    assert.equal(response.status, 201, response.text);
    const { uid, secret } = JSON.parse(response.text).result;
    return { uid, secret };
  }

  async deleteKey(key) {
    const headers = { authorization: `Bearer ${this.token}` };
    const response = await this.request('DELETE', `${this.keysPath}/${key.uid}`, { headers });
    assert.equal(response.status, 200, response.text);
  }

  /** A request of the credential API, authorised by the key's own secret. */
  credentials(key, action, body) {
    const headers = { authorization: `Bearer ${key.secret}`, 'content-type': 'application/json' };
    return this.request('POST', `/v1/turn/keys/${key.uid}/credentials/${action}`, { headers, body });
  }

  /** A minted credential, `{ urls, username, credential, expiresAtMs }`; `urls` are the TURN ones. */
  async mint(key, body = { ttl: 600 }) {
    const response = await this.credentials(key, 'generate-ice-servers', body);
    assert.equal(response.status, 201, response.text);
    const { iceServers, expiresAt } = JSON.parse(response.text);
    return { ...iceServers.find((server) => server.credential !== undefined), expiresAtMs: Date.parse(expiresAt) };
  }

  async revoke(key, username) {
    const response = await this.credentials(key, `${username}/revoke`);
    assert.equal(response.status, 204, response.text);
  }
}

/** The minted credential's `iceServers`, cut down to its one TURN URL of this transport: udp, tcp or tls. */
export function onlyTransport({ urls, username, credential }, transport) {
  const [scheme, below] = transport === 'tls' ? ['turns', 'tcp'] : ['turn', transport];
  const matching = urls.filter((url) => url.startsWith(`${scheme}:`) && url.endsWith(`?transport=${below}`));
  assert.equal(matching.length, 1, `one ${transport} URL among ${urls}`);
  return [{ urls: matching, username, credential }];
}
