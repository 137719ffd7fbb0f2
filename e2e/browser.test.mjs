// Two browser peers that may speak only through the relay, joined with credentials minted over HTTP.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { closePair, echoMessages, launchBrowser, openPair } from './browser.mjs';
import { makeTrusted } from './trust.mjs';
import { LOOPBACK, onlyTransport, startTurnery } from './turnery.mjs';

const COUNT = 1000;
const LARGEST = 16 * 1024;

describe('a browser relays through turnery', { timeout: 180_000 }, () => {
  let server;
  let browser;
  let trusted;

  before(async () => {
    trusted = await makeTrusted();
    const tls = ['--turn-listen', 'tls://127.0.0.1:0', '--tls-cert', trusted.certificate, '--tls-key', trusted.key];
    server = await startTurnery({ args: [...LOOPBACK, ...tls] });
    browser = await launchBrowser({ home: trusted.home });
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
    await trusted?.remove();
  });

  for (const transport of ['udp', 'tcp', 'tls']) {
    test(`${COUNT} messages come back whole and in order over ${transport}`, async (t) => {
      const key = await server.createKey(`browser ${transport}`);
      const near = onlyTransport(await server.mint(key), transport);
      const far = onlyTransport(await server.mint(key), transport);

      const page = await browser.newPage();
      t.after(() => page.close());
      await page.goto(`${server.api}/try`);

      const pair = await page.evaluate(openPair, { near, far });
      for (const side of ['near', 'far']) {
        assert.equal(pair[side].local.candidateType, 'relay', `${side}: its own candidate`);
        assert.equal(pair[side].remote, 'relay', `${side}: the other's candidate`);
        assert.equal(pair[side].local.relayProtocol, transport, `${side}: how it reaches the relay`);
      }

      const started = performance.now();
      const result = await page.evaluate(echoMessages, { count: COUNT, largest: LARGEST, deadlineMs: 60_000 });
      const seconds = (performance.now() - started) / 1000;
      assert.equal(result.fault, undefined);
      assert.equal(result.sent, COUNT);
      assert.equal(result.echoed, COUNT);
      t.diagnostic(`${result.bytes} bytes there and back in ${seconds.toFixed(1)} s`);
      await page.evaluate(closePair);
    });
  }
});
