// Every way in at once, on the ports that firewalls let through: each URL that is handed out relays in a browser.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launchBrowser } from './browser.mjs';
import { makeTrusted } from './trust.mjs';
import { startTurnery } from './turnery.mjs';

// An address of this machine that nothing else listens on. Ports below 1024 need root.
const ADDRESS = `127.44.${1 + (process.pid % 250)}.1`;
const LISTENERS = ['udp:3478', 'udp:53', 'udp:443', 'tcp:3478', 'tcp:80', 'tls:5349', 'tls:443', 'dtls:5349'];
const RELAYING = [
  `stun:${ADDRESS}:3478`,
  `turn:${ADDRESS}:3478?transport=udp`,
  `turn:${ADDRESS}:443?transport=udp`,
  `turn:${ADDRESS}:3478?transport=tcp`,
  `turn:${ADDRESS}:80?transport=tcp`,
  `turns:${ADDRESS}:5349?transport=tcp`,
  `turns:${ADDRESS}:443?transport=tcp`,
];
/** Chromium sends nothing to port 53, and takes `turns:` for TLS over TCP whatever the transport is. */
const UNKNOWN = {
  [`turn:${ADDRESS}:53?transport=udp`]: /cannot tell[^]*browsers send nothing to port 53/,
  [`turns:${ADDRESS}:5349?transport=udp`]: /cannot tell[^]*In place of DTLS this browser spoke TLS over TCP/,
};

describe('every listener at once', { timeout: 120_000 }, () => {
  let server;
  let browser;
  let trusted;

  before(async () => {
    trusted = await makeTrusted(ADDRESS);
    const listen = LISTENERS.flatMap((listener) => ['--turn-listen', listener.replace(':', `://${ADDRESS}:`)]);
    const ports = ['--api-listen', '127.0.0.1:0', ...listen];
    const tls = ['--tls-cert', trusted.certificate, '--tls-key', trusted.key];
    const host = ['--public-host', ADDRESS, '--relay-address', ADDRESS, '--allow-peer', '127.0.0.0/8'];
    server = await startTurnery({ ports, args: ['--dev', ...host, ...tls] });
    browser = await launchBrowser({ home: trusted.home });
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    await trusted?.remove();
  });

  test('the try page shows each URL green, and says of which it cannot tell', async (t) => {
    const page = await browser.newPage();
    t.after(() => page.close());
    await page.goto(`${server.api}/try?auto=1`);
    await page.waitForFunction(() => document.body.dataset.done === 'true', undefined, { timeout: 60_000 });
    const rows = await page.$$eval('[data-url][data-state]', (found) =>
      found.map(({ dataset, innerText }) => ({ url: dataset.url, state: dataset.state, text: innerText })),
    );
    const told = rows.map(({ url, state, text }) => `${url} ${state}: ${text}`).join('\n');
    const green = rows.filter(({ state }) => state === 'ok');
    assert.deepEqual(green.map(({ url }) => url), RELAYING, told);
    for (const { url, text } of green.slice(1)) assert.match(text, /relayed from .*there and back, whole/s, url);
    const unknown = rows.filter(({ state }) => state === 'unknown');
    assert.deepEqual(unknown.map(({ url }) => url), Object.keys(UNKNOWN), told);
    for (const { url, text } of unknown) assert.match(text, UNKNOWN[url]);
    const summary = await page.textContent('#summary');
    assert.equal(summary, '7 of 9 URLs work, this browser cannot tell of the rest.');
  });
});
