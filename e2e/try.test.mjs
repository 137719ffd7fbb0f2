// The page that tells a newcomer whether the relay works, driven as the newcomer would.

import assert from 'node:assert/strict';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { launchBrowser } from './browser.mjs';
import { startTurnery } from './turnery.mjs';

const DEADLINE_MS = 45_000;

describe('the try page', { timeout: 120_000 }, () => {
  let server;
  let browser;

  before(async () => {
    server = await startTurnery({ args: ['--dev'] });
    browser = await launchBrowser();
  });

  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  /** Opens the page, lets `drive` use it, and keeps a picture of it only if that fails. */
  async function onTryPage(query, drive) {
    const page = await browser.newPage();
    const faults = [];
    page.on('pageerror', (error) => faults.push(error.message));
    try {
      await page.goto(`${server.api}/try${query}`);
      await drive(page);
      assert.deepEqual(faults, [], 'the page threw');
    } catch (error) {
      const picture = path.join(await mkdtemp(path.join(tmpdir(), 'turnery-try-')), 'failed.png');
      await page.screenshot({ path: picture, fullPage: true }).catch(() => {});
      error.message += `\nthe page's own errors: ${faults.join('; ') || 'none'}\npicture: ${picture}`;
      throw error;
    } finally {
      await page.close();
    }
  }

  const finished = (page) =>
    page.waitForFunction(() => document.body.dataset.done === 'true', undefined, { timeout: DEADLINE_MS });

  const rows = (page) =>
    page.$$eval('[data-url][data-state]', (found) =>
      found.map(({ dataset, innerText }) => ({ url: dataset.url, state: dataset.state, text: innerText })),
    );

  const expectedUrls = () =>
    ['udp', 'tcp'].map((transport) => `turn:127.0.0.1:${server.listener(transport).port}?transport=${transport}`);

  test('run by itself, every URL turns green', async () => {
    await onTryPage('?auto=1', async (page) => {
      await finished(page);
      const found = await rows(page);
      const turn = found.filter(({ url }) => url.startsWith('turn:'));
      assert.deepEqual(turn.map(({ url }) => url), expectedUrls());
      assert.deepEqual(found.filter(({ state }) => state !== 'ok'), []);
      for (const { url, text } of turn) assert.match(text, /\d+(\.\d+)? ?ms/, `${url}: the round trip is shown`);
    });
  });

  test('minted by hand, every URL turns green', async () => {
    await onTryPage('', async (page) => {
      assert.notEqual(await page.evaluate(() => document.body.dataset.done), 'true', 'nothing ran yet');
      await page.click('#mint');
      await page.waitForFunction(() => document.querySelector('#ice-servers').value.includes('credential'));
      await page.click('#run');
      await finished(page);
      const turn = (await rows(page)).filter(({ url }) => url.startsWith('turn:'));
      assert.deepEqual(turn.map(({ url, state }) => [url, state]), expectedUrls().map((url) => [url, 'ok']));
    });
  });

  test('a wrong credential fails in words a person can act on', async () => {
    const minted = await server.mint(await server.createKey());
    const wrong = { ...minted, credential: '0'.repeat(96) };
    const iceServers = [{ urls: wrong.urls, username: wrong.username, credential: wrong.credential }];
    await onTryPage('', async (page) => {
      await page.fill('#ice-servers', JSON.stringify({ iceServers }, undefined, 2));
      await page.click('#run');
      await finished(page);
      const found = await rows(page);
      assert.deepEqual(found.map(({ url, state }) => [url, state]), expectedUrls().map((url) => [url, 'failed']));
      for (const { url, text } of found) assert.match(text, /credential|username|password/i, `${url}: ${text}`);
    });
  });
});
