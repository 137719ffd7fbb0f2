// A real browser, and the code that runs inside its page.

import { chromium } from 'playwright-core';

/** Headless Chromium that looks up and downloads nothing by itself; `home` is where it finds whom it trusts. */
export function launchBrowser({ home } = {}) {
  return chromium.launch({
    env: home === undefined ? process.env : { ...process.env, HOME: home },
    executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

// Each function below is sent into the page as text: it may use its argument and the page's globals, nothing else.

/**
 * Joins two relay-only peers by a data channel and keeps them in `globalThis.pair`.
 * Answers the candidates each side selected.
 */
export async function openPair({ near, far, deadlineMs = 15_000 }) {
  const faults = [];
  const within = (promise, what) => {
    const late = new Promise((_, reject) => {
      setTimeout(() => reject(new Error(`${what} took over ${deadlineMs} ms; ICE said: ${faults.join('; ')}`)), deadlineMs);
    });
    return Promise.race([promise, late]);
  };
  const peer = (iceServers, name) => {
    const connection = new RTCPeerConnection({ iceServers, iceTransportPolicy: 'relay' });
    connection.onicecandidateerror = (e) => faults.push(`${name} ${e.url} ${e.errorCode} ${e.errorText}`);
    return connection;
  };
  const gathered = (connection) =>
    new Promise((resolve) => {
      const look = () => connection.iceGatheringState === 'complete' && resolve();
      connection.addEventListener('icegatheringstatechange', look);
      look();
    });
  const selected = async (connection) => {
    const stats = await connection.getStats();
    const transport = [...stats.values()].find((entry) => entry.type === 'transport');
    const chosen = stats.get(transport.selectedCandidatePairId);
    const { candidateType, relayProtocol, url } = stats.get(chosen.localCandidateId);
    return { local: { candidateType, relayProtocol, url }, remote: stats.get(chosen.remoteCandidateId).candidateType };
  };

  const a = peer(near, 'near');
  const b = peer(far, 'far');
  const channel = a.createDataChannel('e2e', { ordered: true });
  channel.binaryType = 'arraybuffer';
  const opened = new Promise((resolve) => (channel.onopen = resolve));
  const arrived = new Promise((resolve) => (b.ondatachannel = (event) => resolve(event.channel)));

  // Descriptions travel with all their candidates: no side learns the other's address by being probed.
  await a.setLocalDescription();
  await within(gathered(a), 'gathering of the near side');
  await b.setRemoteDescription(a.localDescription);
  await b.setLocalDescription();
  await within(gathered(b), 'gathering of the far side');
  await a.setRemoteDescription(b.localDescription);
  const echo = await within(arrived, 'the far data channel');
  echo.binaryType = 'arraybuffer';
  await within(opened, 'the near data channel');

  globalThis.pair = { a, b, channel, echo };
  return { near: await selected(a), far: await selected(b) };
}

export function closePair() {
  globalThis.pair.a.close();
  globalThis.pair.b.close();
}

/** Sends `count` messages of 4 to `largest` bytes, the far side returns each, and every byte is compared on the way back. */
export async function echoMessages({ count, largest, deadlineMs }) {
  const { channel, echo } = globalThis.pair;
  const sizeOf = (index) => (index % 100 === 99 ? largest : 4 + ((index * 7919) % (largest - 3)));
  const byteOf = (index, at) => (index * 31 + at * 7 + (at >> 8)) & 0xff;
  const build = (index) => {
    const bytes = new Uint8Array(sizeOf(index));
    for (let at = 4; at < bytes.length; at += 1) bytes[at] = byteOf(index, at);
    new DataView(bytes.buffer).setUint32(0, index);
    return bytes;
  };
  const faultIn = (buffer, index) => {
    const bytes = new Uint8Array(buffer);
    const found = new DataView(buffer).getUint32(0);
    if (found !== index) return `message ${found} came where ${index} was due`;
    if (bytes.length !== sizeOf(index)) return `message ${index} has ${bytes.length} bytes, not ${sizeOf(index)}`;
    for (let at = 4; at < bytes.length; at += 1) {
      if (bytes[at] !== byteOf(index, at)) return `message ${index} differs at byte ${at}`;
    }
    return undefined;
  };

  const result = { sent: 0, echoed: 0, bytes: 0, fault: undefined };
  echo.onmessage = (event) => echo.send(event.data);
  const done = new Promise((resolve) => {
    setTimeout(resolve, deadlineMs);
    channel.onclose = resolve;
    channel.onmessage = (event) => {
      result.fault ??= faultIn(event.data, result.echoed);
      result.echoed += 1;
      result.bytes += event.data.byteLength;
      if (result.fault || result.echoed === count) resolve();
    };
  });

  channel.bufferedAmountLowThreshold = 256 * 1024;
  for (; result.sent < count && !result.fault; result.sent += 1) {
    if (channel.bufferedAmount > 1024 * 1024) {
      await Promise.race([done, new Promise((resolve) => (channel.onbufferedamountlow = resolve))]);
    }
    if (channel.readyState !== 'open') break;
    channel.send(build(result.sent));
  }
  await done;
  return result;
}

/** Starts a message every 20 ms, echoed by the far side; `flow` tells when the last one arrived at each end. */
export function startFlow() {
  const { channel, echo } = globalThis.pair;
  const flow = { sent: 0, lastFarMs: 0, lastNearMs: 0 };
  globalThis.flow = flow;
  echo.onmessage = (event) => {
    flow.lastFarMs = Date.now();
    echo.send(event.data);
  };
  channel.onmessage = () => (flow.lastNearMs = Date.now());
  setInterval(() => {
    if (channel.readyState !== 'open') return;
    channel.send(`tick ${flow.sent}`);
    flow.sent += 1;
  }, 20);
}

export function readFlow() {
  return { ...globalThis.flow };
}

/** What gathering alone yields: the types of the candidates, and the error codes. */
export async function gather({ iceServers, deadlineMs = 15_000 }) {
  const connection = new RTCPeerConnection({ iceServers, iceTransportPolicy: 'relay' });
  const result = { candidates: [], errorCodes: [] };
  connection.onicecandidate = ({ candidate }) => candidate?.candidate && result.candidates.push(candidate.type);
  connection.onicecandidateerror = (event) => result.errorCodes.push(event.errorCode);
  connection.createDataChannel('gather');
  const complete = new Promise((resolve) => {
    setTimeout(resolve, deadlineMs);
    connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && resolve();
  });
  await connection.setLocalDescription();
  await complete;
  connection.close();
  return result;
}
