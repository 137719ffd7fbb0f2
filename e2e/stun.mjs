// Just enough of a TURN client to ask one question: would this credential get an allocation?
// Written from the RFCs with nothing of the server's code, so that a mistake in one is not a mistake in both.

import { createHash, createHmac, randomBytes } from 'node:crypto';
import dgram from 'node:dgram';

const MAGIC_COOKIE = 0x2112a442;
const ALLOCATE_REQUEST = 0x0003;
const REFRESH_REQUEST = 0x0004;
const USERNAME = 0x0006;
const MESSAGE_INTEGRITY = 0x0008;
const ERROR_CODE = 0x0009;
const LIFETIME = 0x000d;
const REALM = 0x0014;
const NONCE = 0x0015;
const REQUESTED_TRANSPORT = 0x0019;

const uint32 = (value) => Buffer.from([value >>> 24, value >>> 16, value >>> 8, value].map((byte) => byte & 0xff));
const UDP = uint32(17 << 24);

function attribute(type, value) {
  const out = Buffer.alloc(4 + Math.ceil(value.length / 4) * 4);
  out.writeUInt16BE(type, 0);
  out.writeUInt16BE(value.length, 2);
  value.copy(out, 4);
  return out;
}

function message(type, attributes, key) {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(type, 0);
  header.writeUInt32BE(MAGIC_COOKIE, 4);
  randomBytes(12).copy(header, 8);
  const body = Buffer.concat(attributes.map(([kind, value]) => attribute(kind, Buffer.from(value))));
  // RFC 8489 §14.5: the length that is hashed already counts the integrity attribute.
  header.writeUInt16BE(body.length + (key ? 24 : 0), 2);
  if (!key) return Buffer.concat([header, body]);
  const mac = createHmac('sha1', key).update(header).update(body).digest();
  return Buffer.concat([header, body, attribute(MESSAGE_INTEGRITY, mac)]);
}

function parse(packet) {
  const attributes = new Map();
  for (let at = 20; at + 4 <= packet.length; ) {
    const length = packet.readUInt16BE(at + 2);
    attributes.set(packet.readUInt16BE(at), packet.subarray(at + 4, at + 4 + length));
    at += 4 + Math.ceil(length / 4) * 4;
  }
  const error = attributes.get(ERROR_CODE);
  return { success: (packet.readUInt16BE(0) & 0x0110) === 0x0100, code: error && error[2] * 100 + error[3], attributes };
}

async function ask(socket, { host, port }, request) {
  const transaction = request.toString('hex', 8, 20);
  for (let attempt = 0; attempt < 5; attempt += 1) {
    socket.send(request, port, host);
    const answer = await new Promise((resolve) => {
      const done = (packet) => {
        clearTimeout(timer);
        socket.off('message', listen);
        resolve(packet);
      };
      const listen = (packet) => {
        if (packet.length >= 20 && packet.toString('hex', 8, 20) === transaction) done(packet);
      };
      const timer = setTimeout(done, 500);
      socket.on('message', listen);
    });
    if (answer) return parse(answer);
  }
  throw new Error(`no answer from ${host}:${port}`);
}

/** What a TURN server answers to an Allocate with this credential: 'success', or the error code as a number. */
export async function tryAllocate(listener, username, password) {
  const socket = dgram.createSocket('udp4');
  try {
    const challenge = await ask(socket, listener, message(ALLOCATE_REQUEST, [[REQUESTED_TRANSPORT, UDP]]));
    if (challenge.code !== 401) throw new Error(`an Allocate without credential was answered ${challenge.code}`);
    const realm = challenge.attributes.get(REALM);
    const identity = [[USERNAME, username], [REALM, realm], [NONCE, challenge.attributes.get(NONCE)]];
    const key = createHash('md5').update(`${username}:${realm}:${password}`).digest();
    const answer = await ask(socket, listener, message(ALLOCATE_REQUEST, [[REQUESTED_TRANSPORT, UDP], ...identity], key));
    if (!answer.success) return answer.code;
    await ask(socket, listener, message(REFRESH_REQUEST, [[LIFETIME, uint32(0)], ...identity], key));
    return 'success';
  } finally {
    socket.close();
  }
}
