// The public npm SDK, unchanged: only its base URL and its token are set.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import Cloudflare from 'cloudflare';

import { startTurnery } from './turnery.mjs';

const HEX_32 = /^[0-9a-f]{32}$/;
const HEX_64 = /^[0-9a-f]{64}$/;

describe('the npm SDK manages TURN keys', { timeout: 60_000 }, () => {
  let server;
  let client;
  let mine;

  before(async () => {
    server = await startTurnery();
    client = new Cloudflare({ baseURL: server.accountApi, apiToken: server.token });
    mine = { account_id: server.account };
  });

  after(() => server?.stop());

  const listed = async () => {
    const keys = [];
    for await (const key of client.calls.turn.list(mine)) keys.push(key);
    return keys;
  };

  test('create, get, list, rename, delete', async () => {
    const created = await client.calls.turn.create({ ...mine, name: 'first' });
    assert.match(created.uid, HEX_32);
    assert.equal(created.name, 'first');
    assert.match(created.key, HEX_64);
    assert.equal(created.secret, created.key, 'the secret stands under both of its names');
    assert.ok(Date.parse(created.created) <= Date.parse(created.modified));
    assert.match(created.created, /Z$/);

    const got = await client.calls.turn.get(created.uid, mine);
    assert.equal(got.name, 'first');
    assert.equal(got.key, undefined, 'the secret is shown once');
    assert.equal(got.secret, undefined, 'the secret is shown once');

    const unnamed = await client.calls.turn.create(mine);
    assert.equal(unnamed.name, '');
    const names = new Map((await listed()).map((key) => [key.uid, key.name]));
    assert.deepEqual(names, new Map([[created.uid, 'first'], [unnamed.uid, '']]));

    const renamed = await client.calls.turn.update(created.uid, { ...mine, name: 'second' });
    assert.equal(renamed.uid, created.uid);
    assert.equal(renamed.name, 'second');
    assert.equal(renamed.created, created.created);
    assert.deepEqual((await listed()).map((key) => key.name).sort(), ['', 'second']);

    const deleted = await client.calls.turn.delete(created.uid, mine);
    assert.equal(deleted.uid, created.uid);
    assert.deepEqual((await listed()).map((key) => key.uid), [unnamed.uid]);
    await client.calls.turn.delete(unnamed.uid, mine);
    assert.deepEqual(await listed(), []);
  });

  test('the created key mints a credential at once', async () => {
    const created = await client.calls.turn.create({ ...mine, name: 'minting' });
    const { urls, username, credential } = await server.mint({ uid: created.uid, secret: created.key });
    assert.ok(urls.every((url) => url.startsWith('turn:') && url.includes('?transport=')), urls.join(' '));
    assert.ok(username && credential);
  });

  test('the account and the token can be found out', async () => {
    const accounts = [];
    for await (const account of client.accounts.list()) {
      accounts.push(account.id);
      // The SDK asks for the next page until one is empty: a server deaf to `page` keeps it busy for ever.
      assert.deepEqual(accounts, [server.account], 'the second page is empty');
    }
    assert.deepEqual(accounts, [server.account]);
    assert.equal((await client.user.tokens.verify()).status, 'active');
  });

  const withToken = (apiToken) => new Cloudflare({ baseURL: server.accountApi, apiToken });
  const missing = '0'.repeat(32);
  const failures = [
    ['an unknown token', Cloudflare.AuthenticationError, 401, 10000, () => withToken('x'.repeat(40)).calls.turn.list(mine)],
    ["another's account", Cloudflare.PermissionDeniedError, 403, 10000, () => client.calls.turn.list({ account_id: missing })],
    ['getting no such key', Cloudflare.NotFoundError, 404, 20008, () => client.calls.turn.get(missing, mine)],
    ['renaming no such key', Cloudflare.NotFoundError, 404, 20008, () => client.calls.turn.update(missing, { ...mine, name: 'x' })],
    ['deleting no such key', Cloudflare.NotFoundError, 404, 20008, () => client.calls.turn.delete(missing, mine)],
    ['an id that cannot be one', Cloudflare.NotFoundError, 404, 7003, () => client.calls.turn.get('not-an-id', mine)],
    ['no such route', Cloudflare.NotFoundError, 404, 7003, () => client.get('/no/such/route')],
    ['a name of the wrong type', Cloudflare.BadRequestError, 400, undefined, () => client.calls.turn.create({ ...mine, name: 7 })],
    ['a name too long', Cloudflare.BadRequestError, 400, undefined, () => client.calls.turn.create({ ...mine, name: 'n'.repeat(10_000) })],
  ];

  for (const [what, type, status, code, call] of failures) {
    test(`${what} is a ${type.name}`, async () => {
      const error = await Promise.resolve(call()).then(() => assert.fail('it succeeded'), (caught) => caught);
      assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
      assert.equal(error.status, status);
      assert.equal(error.errors.length, 1, error.message);
      if (code !== undefined) assert.equal(error.errors[0].code, code, error.message);
      assert.ok(error.errors[0].code >= 1000, error.message);
      assert.ok(error.errors[0].message.length > 0);
      if (status === 400) assert.match(error.errors[0].message, /name/, 'the message names the field');
    });
  }
});
