// Requests in the shapes that public programs and shell scripts send them.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { tryAllocate } from './stun.mjs';
import { startTurnery } from './turnery.mjs';

const DAY_SECS = 86_400;

describe('callers in the wild', { timeout: 60_000 }, () => {
  let server;
  let key;

  before(async () => {
    server = await startTurnery();
    key = await server.createKey('callers');
  });

  after(() => server?.stop());

  const generate = (action, headers, body) =>
    server.request('POST', `/v1/turn/keys/${key.uid}/credentials/${action}`, {
      headers: { authorization: `Bearer ${key.secret}`, ...headers },
      body,
    });

  const shapes = [
    ['application/json', { 'content-type': 'application/json' }, '{"ttl": 3600}', 3600],
    ['no content type', {}, '{"ttl":3600}', 3600],
    ['text/plain', { 'content-type': 'text/plain;charset=UTF-8' }, '{"ttl":3600}', 3600],
    ["curl -d's form type", { 'content-type': 'application/x-www-form-urlencoded' }, '{"ttl":3600}', 3600],
    ['an empty object', { 'content-type': 'application/json' }, '{}', DAY_SECS],
    ['ttl wrapped in data', { 'content-type': 'application/json' }, '{"data":{"ttl":3600}}', DAY_SECS],
    ['extra fields', { 'content-type': 'application/json' }, '{"ttl":3600,"name":"x","extra":[1]}', 3600],
    ['a user agent', { 'user-agent': 'Python-urllib/3.11' }, '{"ttl":3600}', 3600],
    ['a lower-case header and scheme', (secret) => ({ authorization: `bearer ${secret}` }), '{"ttl":3600}', 3600],
    ['an upper-case header and scheme', (secret) => ({ AUTHORIZATION: `BEARER ${secret}` }), '{"ttl":3600}', 3600],
  ];

  for (const [what, extra, body, ttl] of shapes) {
    test(`mint with ${what}`, async () => {
      const asked = Math.floor(Date.now() / 1000);
      const headers = extra instanceof Function ? extra(key.secret) : { Authorization: `Bearer ${key.secret}`, ...extra };
      const target = `/v1/turn/keys/${key.uid}/credentials/generate-ice-servers`;
      const response = await server.request('POST', target, { headers, body });
      assert.equal(response.status, 201, response.text);
      assert.match(response.headers['content-type'], /^application\/json/);
      const answer = JSON.parse(response.text);
      assert.equal(answer.ttl, ttl);
      const lives = Date.parse(answer.expiresAt) / 1000 - asked;
      assert.ok(lives >= ttl - 1 && lives <= ttl + 5, `expires in ${lives} s, ${ttl} asked`);
    });
  }

  test('generate-ice-servers answers an array that goes into a browser unchanged', async () => {
    const { iceServers } = JSON.parse((await generate('generate-ice-servers', {}, '{}')).text);
    const [stun, turn, ...more] = iceServers;
    assert.deepEqual(more, []);
    assert.deepEqual(Object.keys(stun), ['urls']);
    assert.ok(stun.urls.every((url) => url.startsWith('stun:')), stun.urls.join(' '));
    const [udp, tcp] = ['udp', 'tcp'].map((transport) => server.listener(transport).port);
    assert.deepEqual(turn.urls, [`turn:127.0.0.1:${udp}?transport=udp`, `turn:127.0.0.1:${tcp}?transport=tcp`]);
    assert.match(turn.username, /^[0-9a-f]{96}$/);
    assert.match(turn.credential, /^[0-9a-f]{96}$/);
  });

  test('generate answers one object', async () => {
    const response = await generate('generate', { 'content-type': 'application/json' }, '{"ttl":60}');
    assert.equal(response.status, 201, response.text);
    const { iceServers } = JSON.parse(response.text);
    assert.ok(!Array.isArray(iceServers));
    assert.match(iceServers.urls[0], /^stun:/);
    assert.ok(iceServers.urls.slice(1).every((url) => /^turn:.*\?transport=(udp|tcp)$/.test(url)));
    assert.ok(iceServers.username && iceServers.credential);
  });

  test('two credentials are never the same', async () => {
    const [one, two] = [await server.mint(key), await server.mint(key)];
    assert.notEqual(one.username, two.username);
    assert.notEqual(one.credential, two.credential);
  });

  const revocations = [
    ['in the path', (username) => [`${username}/revoke`, undefined]],
    ['in the path, older form', (username) => [`username/${username}/revoke`, undefined]],
    ['in the body', (username) => ['revoke', JSON.stringify({ username })]],
  ];

  for (const [where, form] of revocations) {
    test(`revoke with the username ${where}`, async () => {
      const [revoked, untouched] = [await server.mint(key), await server.mint(key)];
      const listener = server.listener('udp');
      assert.equal(await tryAllocate(listener, revoked.username, revoked.credential), 'success');

      const [action, body] = form(revoked.username);
      for (const attempt of ['first', 'repeated']) {
        const response = await generate(action, {}, body);
        assert.equal(response.status, 204, `${attempt}: ${response.text}`);
        assert.equal(response.text, '');
      }

      // The promise is one second, so that is when it is asked for.
      await new Promise((resolve) => setTimeout(resolve, 1000));
      assert.equal(await tryAllocate(listener, revoked.username, revoked.credential), 401);
      assert.equal(await tryAllocate(listener, untouched.username, untouched.credential), 'success');
    });
  }

  test('a wrong password is refused by the relay', async () => {
    const { username, credential } = await server.mint(key);
    const wrong = (credential[0] === '0' ? '1' : '0') + credential.slice(1);
    assert.equal(await tryAllocate(server.listener('udp'), username, wrong), 401);
  });

  test('scripts find the account, test the token, and grep the key out of compact JSON', async () => {
    const headers = { Authorization: `Bearer ${server.token}` };
    const accounts = await server.request('GET', '/client/v4/accounts?per_page=50', { headers });
    assert.match(accounts.text, new RegExp(`"id":"${server.account}"`));

    for (const target of ['/client/v4/user/tokens/verify', `/client/v4/accounts/${server.account}/tokens/verify`]) {
      const verified = await server.request('GET', target, { headers });
      assert.equal(verified.status, 200, verified.text);
      assert.match(verified.text, /"status":"active"/);
    }

    const created = await server.request('POST', server.keysPath, { headers, body: '{"name":"grep me"}' });
    assert.equal(created.status, 201, created.text);
    for (const field of ['uid', 'key', 'secret', 'name']) {
      assert.match(created.text, new RegExp(`"${field}":"[^"]+"`));
    }
    const { result, ...beside } = JSON.parse(created.text);
    assert.equal(beside.uid, result.uid, 'the fields also stand beside the envelope');
    assert.equal(beside.key, result.secret);

    const list = await server.request('GET', server.keysPath, { headers });
    const uids = [...list.text.matchAll(/"uid":"([0-9a-f]{32})"/g)].map((found) => found[1]);
    assert.deepEqual(uids.sort(), [key.uid, result.uid].sort());
    assert.match(list.text, /"success":true,"errors":\[\],"messages":\[\]/);
  });

  const refusals = [
    ['no such route', 'GET', '/client/v4/nothing/here', {}, undefined, 404],
    ['a body that is no JSON', 'POST', 'keys', {}, '{"name":', 400],
    ['a method that is not allowed', 'PATCH', 'keys', {}, '{}', 405],
    ['no credentials', 'GET', 'keys', { authorization: undefined }, undefined, 400],
    ['a ttl of zero', 'POST', 'mint', {}, '{"ttl":0}', 400],
    ['a ttl as a string', 'POST', 'mint', {}, '{"ttl":"600"}', 400],
    ['a ttl over two days', 'POST', 'mint', {}, '{"ttl":172801}', 400],
    ['the wrong secret', 'POST', 'mint', { authorization: `Bearer ${'0'.repeat(64)}` }, '{}', 401],
  ];

  for (const [what, method, target, extra, body, status] of refusals) {
    test(`${what} fails in the same envelope`, async () => {
      const minting = target === 'mint';
      const targets = { keys: server.keysPath, mint: `/v1/turn/keys/${key.uid}/credentials/generate-ice-servers` };
      const headers = { authorization: `Bearer ${minting ? key.secret : server.token}`, ...extra };
      if (headers.authorization === undefined) delete headers.authorization;
      const response = await server.request(method, targets[target] ?? target, { headers, body });
      assert.equal(response.status, status, response.text);
      const envelope = JSON.parse(response.text);
      assert.equal(envelope.result, null);
      assert.equal(envelope.success, false);
      assert.deepEqual(envelope.messages, []);
      assert.equal(envelope.errors.length, 1);
      assert.ok(envelope.errors[0].code >= 1000);
      if (what.startsWith('a ttl')) assert.match(envelope.errors[0].message, /172800/, 'it says the range');
    });
  }
});
