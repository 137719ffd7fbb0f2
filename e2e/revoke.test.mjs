// What ends a credential ends the traffic that is running on it, within a second, on a channel a browser keeps busy.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { gather, launchBrowser, openPair, readFlow, startFlow } from './browser.mjs';
import { onlyTransport, startTurnery } from './turnery.mjs';

const CUT_WITHIN_MS = 1000;
// A message is due every 20 ms; without one for this long there was nothing left to cut.
const ALIVE_WITHIN_MS = 500;
const WATCH_MS = 3000;

describe('live traffic ends with its credential', { timeout: 180_000 }, () => {
  let server;
  let browser;

  before(async () => {
    server = await startTurnery();
    browser = await launchBrowser();
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  /** Keeps messages flowing, lets `cut` end one side's credential and answer when it did, and watches them stop. */
  async function cutOf(t, { transport, near, far, cut }) {
    const page = await browser.newPage();
    t.after(() => page.close());
    await page.goto(`${server.api}/try`);
    await page.evaluate(openPair, { near: onlyTransport(near, transport), far: onlyTransport(far, transport) });
    await page.evaluate(startFlow);
    await sleep(1000);

    const cutAt = await cut();
    await sleep(WATCH_MS);
    const flow = await page.evaluate(readFlow);
    for (const [end, last] of [['far', flow.lastFarMs], ['near', flow.lastNearMs]]) {
      t.diagnostic(`${end} end: last message ${last - cutAt} ms after the cut`);
      assert.ok(last - cutAt > -ALIVE_WITHIN_MS, `the ${end} end was silent before the cut: ${last - cutAt} ms`);
      assert.ok(last - cutAt <= CUT_WITHIN_MS, `the ${end} end still heard messages ${last - cutAt} ms after the cut`);
    }
    return page;
  }

  const allocates = async (page, credential, transport) => {
    const { candidates, errorCodes } = await page.evaluate(gather, { iceServers: onlyTransport(credential, transport) });
    return { candidates, errorCodes: [...new Set(errorCodes)] };
  };

  for (const transport of ['udp', 'tcp']) {
    test(`a revoked credential, over ${transport}`, async (t) => {
      const key = await server.createKey();
      const [near, far] = [await server.mint(key), await server.mint(key)];
      const cut = async () => {
        await server.revoke(key, near.username);
        return Date.now();
      };
      const page = await cutOf(t, { transport, near, far, cut });

      assert.deepEqual(await allocates(page, near, transport), { candidates: [], errorCodes: [401] });
      assert.deepEqual(await allocates(page, far, transport), { candidates: ['relay'], errorCodes: [] });
    });
  }

  test('a deleted key', async (t) => {
    const [key, other] = [await server.createKey('goes'), await server.createKey('stays')];
    const [near, far] = [await server.mint(key), await server.mint(other)];
    const cut = async () => {
      await server.deleteKey(key);
      return Date.now();
    };
    const page = await cutOf(t, { transport: 'udp', near, far, cut });

    assert.deepEqual(await allocates(page, near, 'udp'), { candidates: [], errorCodes: [401] });
    assert.deepEqual(await allocates(page, far, 'udp'), { candidates: ['relay'], errorCodes: [] });
  });

  test('an expired credential', async (t) => {
    const key = await server.createKey();
    const far = await server.mint(key);
    const near = await server.mint(key, { ttl: 6 });
    const cut = async () => {
      await sleep(near.expiresAtMs - Date.now());
      return near.expiresAtMs;
    };
    const page = await cutOf(t, { transport: 'udp', near, far, cut });

    assert.deepEqual(await allocates(page, near, 'udp'), { candidates: [], errorCodes: [401] });
  });
});
