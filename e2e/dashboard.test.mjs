// The dashboard, driven as a person drives it: every action once, what must be refused, and axe on each page.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { AxeBuilder } from '@axe-core/playwright';

import { launchBrowser, openPair } from './browser.mjs';
import { BINARY, startTurnery } from './turnery.mjs';

const NASTY = `<script>globalThis.hit = 1</script>"'><img src=x onerror="globalThis.hit = 1">`;
const run = promisify(execFile);

describe('the dashboard', { timeout: 400_000 }, () => {
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

  /** A browser of its own, on the sign-in page; what its pages throw, or the policy stops, is a failure. */
  async function visit(drive, options = {}) {
    const context = await browser.newContext(options);
    const faults = [];
    context.on('weberror', (event) => faults.push(event.error().message));
    context.on('console', (message) => message.text().includes('Content Security Policy') && faults.push(message.text()));
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    try {
      await page.goto(`${server.api}/`);
      await drive(page);
      assert.deepEqual(faults, [], 'the page threw, or wanted what its policy forbids');
    } catch (error) {
      const picture = path.join(await mkdtemp(path.join(tmpdir(), 'turnery-dashboard-')), 'failed.png');
      await page.screenshot({ path: picture, fullPage: true }).catch(() => {});
      error.message += `\nat ${page.url()}\npicture: ${picture}`;
      throw error;
    } finally {
      await context.close();
    }
  }

  async function signIn(page, token = server.token) {
    await page.getByLabel('API token').fill(token);
    await page.getByRole('button', { name: 'Sign in' }).click();
  }

  const visitSignedIn = (drive, options) =>
    visit(async (page) => {
      await signIn(page);
      await page.getByRole('heading', { level: 1, name: 'TURN keys' }).waitFor();
      await drive(page);
    }, options);

  async function createKey(page, name) {
    await page.goto(`${server.api}/dashboard/keys`);
    await page.getByRole('textbox', { name: 'Name' }).fill(name);
    await page.getByRole('button', { name: 'Create the key' }).click();
    await page.getByText('only time that its secret is shown').waitFor();
    const [uid, secret] = await Promise.all([page.textContent('#made-uid'), page.textContent('#made-secret')]);
    return { uid, secret };
  }

  const said = (page) => page.locator('main [role="status"]').textContent();
  const alerted = (page) => page.locator('[role="alert"]').textContent();

  /** A new API token, made on the server. */
  async function token(...args) {
    const made = await run(BINARY, ['token', 'create', '--json', '--data-dir', server.dataDir, ...args]);
    const { id, token: text } = JSON.parse(made.stdout);
    return { id, text };
  }

  test('a wrong token is told so, the right one signs in, and out again', async () => {
    await visit(async (page) => {
      await page.waitForURL('**/dashboard/sign-in**');
      await signIn(page, 'wrong');
      assert.match(await alerted(page), /^API token: it is not known here/);
      await signIn(page);
      await page.waitForURL('**/dashboard/keys');
      const [cookie] = await page.context().cookies();
      assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.value === server.token], [true, 'Strict', false]);
      assert.equal(await page.evaluate(() => document.cookie), '', 'no script sees it');
      await page.locator('summary', { hasText: 'Account' }).click();
      await page.getByRole('button', { name: 'Sign out' }).click();
      assert.match(await said(page), /signed out/);
      await page.goBack();
      await page.reload();
      await page.waitForURL('**/dashboard/sign-in**');
    });
  });

  test('a key is created, copied, renamed, limited and deleted', async () => {
    await visitSignedIn(
      async (page) => {
        const { uid, secret } = await createKey(page, 'phones');
        assert.match(secret, /^[0-9a-f]{64}$/);
        await page.getByRole('button', { name: 'Copy the secret' }).click();
        await page.getByRole('button', { name: 'Copied' }).waitFor();
        assert.equal(await page.evaluate(() => navigator.clipboard.readText()), secret);
        assert.ok(await server.mint({ uid, secret }), 'it mints');

        await page.reload();
        assert.equal(await page.getByRole('link', { name: 'phones', exact: true }).count(), 1, 'no second one is made');
        assert.equal(await page.locator('#made-secret').count(), 0);
        await page.getByRole('link', { name: 'phones', exact: true }).click();
        assert.ok(!(await page.content()).includes(secret), 'it is shown once');
        await page.getByRole('textbox', { name: 'Name' }).fill('tablets');
        await page.getByRole('button', { name: 'Rename' }).click();
        assert.match(await said(page), /new name/);
        await page.getByRole('heading', { level: 1, name: 'tablets' }).waitFor();

        await page.getByRole('link', { name: 'Change the limits' }).click();
        await page.getByLabel('Allocations at once').fill('many');
        await page.getByRole('button', { name: 'Set these limits' }).click();
        assert.match(await alerted(page), /^Allocations at once: “many” is no whole number/);
        await page.getByLabel('Allocations at once').fill('2k');
        await page.getByRole('button', { name: 'Set these limits' }).click();
        assert.match(await said(page), /limits are set/);
        await page.getByText('2,000').waitFor();
        await page.getByRole('link', { name: 'Change the limits' }).click();
        await page.getByRole('button', { name: /own limits/ }).click();
        assert.match(await said(page), /no limits of its own/);

        await page.getByRole('link', { name: 'Change the monthly limit' }).click();
        await page.getByLabel('Bytes in a month').fill('500G');
        await page.getByRole('button', { name: 'Set the limit' }).click();
        assert.match(await said(page), /monthly limit is set/);
        await page.getByText('500 GB').waitFor();

        await page.getByRole('link', { name: /Delete the key/ }).click();
        await page.getByRole('heading', { level: 1, name: 'Delete “tablets”?' }).waitFor();
        await page.getByRole('button', { name: 'Delete the key' }).click();
        assert.match(await said(page), /key is deleted/);
        const refused = await server.credentials({ uid, secret }, 'generate', {});
        assert.equal(refused.status, 404, 'the key is gone');
      },
      { permissions: ['clipboard-read', 'clipboard-write'] },
    );
  });

  test('a key is suspended, resumed and rolled, its credentials are revoked, and the log has it all', async () => {
    const key = await server.createKey('to be rolled');
    const { username } = await server.mint(key);
    await visitSignedIn(async (page) => {
      const place = `${server.api}/dashboard/keys/${key.uid}`;
      await page.goto(place);
      await page.getByRole('link', { name: /Suspend the key/ }).click();
      await page.getByRole('button', { name: 'Suspend the key' }).click();
      assert.match(await said(page), /key is suspended/);
      assert.equal((await server.credentials(key, 'generate', {})).status, 403);
      await page.getByRole('button', { name: 'Resume the key' }).click();
      assert.match(await said(page), /key is resumed/);

      await page.getByRole('link', { name: /Roll the secret/ }).click();
      await page.getByLabel('The former secret stays good').selectOption('for an hour');
      await page.getByRole('button', { name: 'Roll the secret' }).click();
      const secret = await page.textContent('#made-secret');
      for (const good of [secret, key.secret]) await server.mint({ uid: key.uid, secret: good });
      await page.getByRole('link', { name: 'Back to the key' }).click();
      await page.getByText('Former secret good until').waitFor();

      await page.getByRole('link', { name: 'Revocations' }).click();
      await page.getByText('Nothing is revoked').waitFor();
      await page.getByLabel('One credential').fill('wrong');
      await page.getByRole('button', { name: 'Revoke it' }).click();
      assert.match(await alerted(page), /^Username: it is no credential of this key/);
      await page.getByLabel('One credential').fill(username);
      await page.getByRole('button', { name: 'Revoke it' }).click();
      assert.match(await said(page), /credentials are revoked/);
      await page.getByLabel('All of a custom identifier').fill('alice');
      await page.getByRole('button', { name: 'Revoke theirs' }).click();
      await page.getByRole('row', { name: /All of a custom identifier alice/ }).waitFor();
      await page.getByLabel('I mean everything').check();
      await page.getByRole('button', { name: 'Revoke everything' }).click();
      await page.getByRole('row', { name: /All of the key/ }).waitFor();

      await page.goto(place);
      await page.locator('main').getByRole('link', { name: 'Audit log' }).click();
      for (const action of ['suspend', 'resume', 'roll']) {
        await page.getByRole('row', { name: new RegExp(`turn_key.${action}.*dashboard, API token`) }).waitFor();
      }
      await page.getByLabel('About').selectOption('Credentials');
      await page.getByRole('button', { name: 'Show', exact: true }).click();
      assert.equal(await page.getByRole('row', { name: /credential.revoke/ }).count(), 3);
    });
  });

  test('an API token is made, signs in, and is deleted', async () => {
    await visitSignedIn(async (page) => {
      await page.getByRole('link', { name: 'Tokens' }).click();
      await page.getByRole('textbox', { name: 'Name' }).fill('for a friend');
      await page.getByLabel('Good for').selectOption('a day');
      await page.getByRole('button', { name: 'Create the token' }).click();
      const text = await page.textContent('#made-token');
      const verify = () =>
        server.request('GET', '/client/v4/user/tokens/verify', { headers: { authorization: `Bearer ${text}` } });
      assert.equal((await verify()).status, 200);
      await page.getByRole('link', { name: 'Delete for a friend' }).click();
      await page.getByRole('button', { name: 'Delete the token' }).click();
      assert.match(await said(page), /token is deleted/);
      assert.equal((await verify()).status, 401);
    });
  });

  test('a test credential is minted, and the try page relays with it', async () => {
    await visitSignedIn(async (page) => {
      const { uid } = await createKey(page, 'to try');
      await page.goto(`${server.api}/dashboard/keys/${uid}/mint`);
      await page.getByLabel('Lifetime').fill('0');
      await page.getByRole('button', { name: 'Mint a credential' }).click();
      assert.match(await alerted(page), /^Lifetime: “0” is no whole number from 1 to 172800/);
      await page.getByLabel('Lifetime').fill('600');
      await page.getByRole('button', { name: 'Mint a credential' }).click();
      const [opened] = await Promise.all([
        page.waitForEvent('popup'),
        page.getByRole('link', { name: 'Run the try page with it' }).click(),
      ]);
      await opened.waitForFunction(() => document.body.dataset.done === 'true', undefined, { timeout: 45_000 });
      assert.match(await opened.textContent('#summary'), /^All \d URLs work/);
      assert.equal(new URL(opened.url()).hash, '', 'the credential does not stay in the address');
    });
  });

  test('sessions are listed and ended: one, and all of a custom identifier', async () => {
    const key = await server.createKey('in use');
    const [alice, bob] = await Promise.all(
      ['alice', NASTY].map((customIdentifier) => server.mint(key, { ttl: 600, customIdentifier })),
    );
    await visitSignedIn(async (page) => {
      const peers = await page.context().newPage();
      await peers.goto(`${server.api}/try`);
      const only = ({ urls, username, credential }) => [
        { urls: urls.find((url) => url.endsWith('=udp')), username, credential },
      ];
      await peers.evaluate(openPair, { near: only(alice), far: only(bob) });
      await page.goto(`${server.api}/dashboard/sessions?key=${key.uid}`);
      // Reports come every few seconds, and the page looks by itself.
      await page.getByRole('row', { name: /alice/ }).waitFor({ timeout: 30_000 });
      assert.equal(await page.evaluate(() => globalThis.hit), undefined, 'a name is a text');
      await page.getByRole('button', { name: /End the session of alice/ }).first().click();
      assert.match(await said(page), /session is being ended/);
      await page.goto(`${server.api}/dashboard/sessions`);
      await page.getByLabel('Custom identifier').fill(NASTY);
      await page.getByRole('button', { name: 'Show', exact: true }).click();
      await page.getByRole('link', { name: /End all of these/ }).click();
      await page.getByRole('button', { name: 'End them all' }).click();
      assert.match(await said(page), /sessions are being ended/);
      await page.goto(`${server.api}/dashboard/sessions?key=${key.uid}`);
      await page.getByText('Nothing relays that fits').waitFor({ timeout: 30_000 });

      await page.goto(`${server.api}/dashboard/usage?range=1h&by=custom_identifier&key=${key.uid}`);
      await page.getByRole('row', { name: /alice/ }).first().waitFor();
      await page.getByLabel('Told apart by').selectOption('transport');
      await page.getByLabel('Show', { exact: true }).selectOption('sessions');
      await page.getByRole('button', { name: 'Show', exact: true }).click();
      await page.getByRole('row', { name: /^UDP/ }).waitFor();
      await page.getByText('The numbers of this chart').click();
      await page.getByRole('columnheader', { name: 'UDP' }).waitFor();
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('link', { name: 'Download CSV' }).click(),
      ]);
      assert.equal(download.suggestedFilename(), 'usage.csv');
      const chunks = await (await download.createReadStream()).toArray();
      assert.match(Buffer.concat(chunks).toString(), /^datetimeMinute,transport,egressBytes,[^]*Z,udp,\d+/);
    });
  });

  test('a webhook is made, sent a test event, and deleted', async () => {
    await visitSignedIn(async (page) => {
      await page.getByRole('link', { name: 'Webhooks' }).click();
      await page.getByLabel('URL').fill('ftp://hooks.example/');
      await page.getByRole('button', { name: 'Create the webhook' }).click();
      assert.match(await alerted(page), /^url must be https:/);
      // No such address is asked: it is not a public one.
      await page.getByLabel('URL').fill('https://127.0.0.1:1/hook');
      await page.getByLabel('webhook.test').check();
      await page.getByRole('button', { name: 'Create the webhook' }).click();
      assert.match(await page.textContent('#made-secret'), /^whsec_/);
      await page.getByRole('link', { name: 'https://127.0.0.1:1/hook' }).click();
      await page.getByText('Everything has arrived').waitFor();
      await page.getByRole('button', { name: 'Send a test event' }).click();
      assert.match(await said(page), /test event is on its way/);
      await page.getByRole('row', { name: /attempt \d/ }).waitFor({ timeout: 30_000 });
      await page.getByLabel('I mean this webhook').check();
      await page.getByRole('button', { name: 'Delete the webhook' }).click();
      assert.match(await said(page), /webhook is deleted/);
    });
  });

  test('a sign-in ends when its API token expires', async () => {
    const until = Date.now() + 5_000;
    const { text } = await token('--expires', new Date(until).toISOString());
    await visit(async (page) => {
      await signIn(page, text);
      await page.waitForURL('**/dashboard/keys');
      // What is typed while the time runs out changes nothing.
      await page.getByRole('textbox', { name: 'Name' }).fill('too late');
      await page.waitForTimeout(until + 1 - Date.now());
      await page.getByRole('button', { name: 'Create the key' }).click();
      await page.waitForURL('**/dashboard/sign-in');
      assert.match(await said(page), /Your sign-in is over/);
      await signIn(page);
      await page.getByRole('heading', { level: 1, name: 'TURN keys' }).waitFor();
      assert.equal(await page.getByText('too late').count(), 0);
    });
  });

  test('a sign-in ends at once when its token does', async () => {
    const { id, text } = await token('--permission', 'calls-write');
    await visit(async (page) => {
      await signIn(page, text);
      await page.waitForURL('**/dashboard/keys');
      await run(BINARY, ['token', 'delete', id, '--data-dir', server.dataDir]);
      await page.getByRole('link', { name: 'Usage' }).first().click();
      await page.waitForURL('**/dashboard/sign-in?next=**');
      assert.match(await said(page), /Your sign-in is over/);
      await signIn(page);
      await page.waitForURL('**/dashboard/usage');
    });
  });

  test('a token that may read sees, and changes nothing', async () => {
    const { uid } = await server.createKey('to be seen');
    const { text } = await token('--permission', 'calls-read');
    await visit(async (page) => {
      await signIn(page, text);
      await page.getByText('you see everything here and change nothing').waitFor();
      assert.equal(await page.getByRole('button', { name: 'Create the key' }).count(), 0);
      const status = await page.evaluate(async (uid) => {
        const csrf = document.querySelector('[name="csrf"]').value;
        const body = new URLSearchParams({ csrf, name: 'changed' });
        return (await fetch(`/dashboard/keys/${uid}/rename`, { method: 'POST', body })).status;
      }, uid);
      assert.equal(status, 403);
    });
  });

  test('another site changes nothing', async () => {
    const { uid } = await server.createKey('to be kept');
    const target = `${server.api}/dashboard/keys/${uid}/delete`;
    const page = `<form method="post" action="${target}"><input name="csrf" value="0"></form>`;
    const evil = http.createServer((_, response) => response.setHeader('content-type', 'text/html').end(page));
    await new Promise((resolve) => evil.listen(0, '127.0.0.1', resolve));
    try {
      await visitSignedIn(async (page) => {
        // Another port is another origin, of the same site; another name is another site.
        for (const host of ['127.0.0.1', 'localhost']) {
          await page.goto(`http://${host}:${evil.address().port}/`);
          const [answer] = await Promise.all([
            page.waitForResponse((response) => response.url() === target),
            page.waitForURL(target),
            page.evaluate(() => document.forms[0].submit()),
          ]);
          assert.equal(answer.status(), 403, host);
        }
        await page.goto(`${server.api}/dashboard/keys`);
        await page.getByRole('link', { name: 'to be kept', exact: true }).waitFor();
        // A page of ours with a form of an earlier sign-in.
        await page.goto(`${server.api}/dashboard/keys/${uid}/delete`);
        await page.evaluate(() => (document.querySelector('main [name="csrf"]').value = '0'.repeat(64)));
        await page.getByRole('button', { name: 'Delete the key' }).click();
        assert.match(await alerted(page), /earlier sign-in/);
      });
    } finally {
      evil.close();
    }
  });

  test('names are texts, whatever they look like', async () => {
    await visitSignedIn(async (page) => {
      const { uid } = await createKey(page, NASTY);
      const places = [
        'keys', `keys/${uid}`, `keys/${uid}/delete`, `keys/${uid}/limits`, `keys/${uid}/mint`, `keys/${uid}/roll`, `keys/${uid}/revocations`, 'sessions', 'usage?by=key', 'audit',
      ];
      for (const place of places) {
        await page.goto(`${server.api}/dashboard/${place}`);
        assert.match(await page.textContent('body'), /<script>globalThis\.hit = 1<\/script>/, place);
        assert.equal(await page.evaluate(() => globalThis.hit), undefined, place);
      }
    });
  });

  test('keys are created and deleted without a script and without a mouse', async () => {
    await visitSignedIn(
      async (page) => {
        await page.keyboard.press('Tab');
        assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content');
        await page.getByRole('textbox', { name: 'Name' }).focus();
        await page.keyboard.type('by keyboard');
        await page.keyboard.press('Enter');
        await page.getByText('only time that its secret is shown').waitFor();
        await page.getByRole('link', { name: 'by keyboard', exact: true }).press('Enter');
        await page.getByRole('link', { name: /Delete the key/ }).press('Enter');
        await page.getByRole('button', { name: 'Delete the key' }).press('Enter');
        assert.match(await said(page), /key is deleted/);
      },
      { javaScriptEnabled: false },
    );
  });

  for (const colorScheme of ['light', 'dark']) {
    test(`axe finds nothing serious, ${colorScheme}, and nothing is wider than a phone`, async () => {
      const { uid } = await server.createKey('for everyone');
      const check = async (page, what) => {
        // Of the rules only that of contrast looks at colours.
        const axe = new AxeBuilder({ page });
        const { violations } = await (colorScheme === 'dark' ? axe.withRules(['color-contrast']) : axe).analyze();
        const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
        const told = grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join('\n')}`);
        assert.deepEqual(told, [], what);
        const { wide, screen } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, screen: innerWidth }));
        assert.ok(wide <= screen, `${what} is ${wide} px wide`);
      };
      await visit(
        async (page) => {
          await check(page, 'sign-in');
          await signIn(page, 'wrong');
          await check(page, 'sign-in with a wrong token');
          await signIn(page);
          await createKey(page, 'new');
          await check(page, 'a new key');
          for (const place of [
            'keys', `keys/${uid}`, `keys/${uid}/delete`, `keys/${uid}/limits`, `keys/${uid}/mint`, 'sessions',
            `sessions/end?key=${uid}`, 'usage?range=1h&by=custom_identifier', 'usage?by=key&custom_identifier=nobody',
            'health', 'audit', 'tokens', 'webhooks', `keys/${uid}/roll`, `keys/${uid}/month`, `keys/${uid}/suspend`, `keys/${uid}/revocations`, 'nothing',
          ]) {
            await page.goto(`${server.api}/dashboard/${place}`);
            await check(page, place);
          }
        },
        { colorScheme, viewport: { width: 360, height: 780 } },
      );
    });
  }
});
