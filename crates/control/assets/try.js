// Tries every ICE URL by itself. Each URL has a row with `data-url` and `data-state` (running, ok, failed, or unknown
// where a failure would be the browser's own); `<body data-done="true">` says that all have ended.

const GATHER_MS = 15_000;
const CONNECT_MS = 15_000;
const ECHO_MS = 15_000;
const PINGS = 10;
const MESSAGES = 200;
const MESSAGE_CHARS = 1024;

const byId = (id) => document.getElementById(id);

/** A failure with a text for people. */
class Trouble extends Error {}

/** No failure: this browser cannot tell. */
class Unknown extends Trouble {}

// Input

/** The servers in what was pasted: a whole answer, an array, or one server. */
function parseServers(text) {
  if (!text.trim()) throw new Trouble("Paste the iceServers JSON first.");
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Trouble(`This is not JSON: ${error.message}`);
  }
  const servers = [value?.iceServers ?? value].flat();
  const targets = servers.flatMap((server) => {
    const urls = [server?.urls ?? server?.url ?? []].flat();
    const { username, credential } = server ?? {};
    return urls.filter((url) => typeof url === "string").map((url) => ({ url, username, credential }));
  });
  if (targets.length === 0) throw new Trouble("There is no `urls` in this JSON: nothing to try.");
  return targets;
}

async function mint() {
  const response = await fetch("/try/ice-servers", { method: "POST", headers: { "X-Turnery-Try": "1" } });
  const answer = await response.json();
  if (!response.ok) throw new Trouble(`The server did not mint: ${answer.errors?.[0]?.message ?? response.status}`);
  byId("ice-servers").value = JSON.stringify(answer.iceServers, null, 2);
}

// What went wrong, in words

/** Scheme, host, port and transport of an ICE URL, with the defaults that it leaves out. */
function parts(url) {
  const match = /^(stuns?|turns?):(\[[^\]]*\]|[^:?]*)(?::(\d+))?(?:\?transport=(\w+))?/i.exec(url);
  if (!match) throw new Trouble("This is no stun:, stuns:, turn: or turns: URL.");
  const scheme = match[1].toLowerCase();
  const secure = scheme.endsWith("s");
  const transport = (match[4] ?? (secure ? "tcp" : "udp")).toLowerCase();
  const port = Number(match[3] ?? (secure ? 5349 : 3478));
  return { scheme, secure, transport, port, isDtls: scheme === "turns" && transport === "udp", where: `${match[2]}:${port}` };
}

const ANSWERS = {
  400: "The server did not understand the request (400): is it a TURN server at all?",
  401: "The server refused the credential (401). It may have expired or been revoked: mint a new one.",
  403: "The server forbids this (403). The credential's key may have been deleted.",
  437: "The server lost the allocation (437): did it restart? Try again.",
  438: "The server rejects its own nonce (438): do its machines share their configuration?",
  440: "The server has no relay address of this family (440).",
  441: "The server expects other credentials for this allocation (441). Try again.",
  442: "The server does not relay over this transport (442).",
  486: "Too many allocations with this credential (486): close some, or raise the quota.",
  508: "The server has no free relay port or is full (508): widen its port range.",
};

/** What it means that nobody answered. */
function silence(target) {
  if (target.isDtls) {
    return new Unknown("No answer over DTLS (turns: with transport=udp). That need be no fault of the server's: browsers " +
      "do not speak it with TURN servers. Clients that do may use this URL.");
  }
  if (target.port === 53) {
    return new Unknown(`No answer from ${target.where}. That need be no fault of the server's: browsers send nothing to ` +
      "port 53. Other clients may use this URL.");
  }
  return new Trouble(noAnswer(target));
}

function noAnswer({ where, transport, secure }) {
  const tls = secure ? " Is its certificate valid for this name?" : "";
  return `No answer from ${where} over ${transport.toUpperCase()}. Does the server run, and does every firewall ` +
    `on the way let ${transport.toUpperCase()} to this port through?${tls}`;
}

/** The most telling of the errors seen while gathering. Code 701 only says that nobody answered. */
function explain(errors, target) {
  const answered = errors.find((error) => error.errorCode !== 701);
  if (!answered) return silence(target);
  const { errorCode, errorText } = answered;
  const text = errorText ? `: ${errorText}` : "";
  return new Trouble(ANSWERS[errorCode] ?? `The server answered with error ${errorCode}${text}.`);
}

// Trying

/** The promise, or the trouble that comes of waiting too long. */
const within = (ms, promise, trouble) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(trouble()), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

const once = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve, { once: true }));

const shownAddress = (address, port) => (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`);

/** Resolves with the first candidate of a type, or with null when gathering ends without. Collects the errors. */
function gather(peer, type, errors) {
  return new Promise((resolve) => {
    peer.addEventListener("icecandidateerror", (event) => errors.push(event));
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (!candidate) resolve(null);
      else if (candidate.type === type) resolve(candidate);
    });
  });
}

async function offer(from, to) {
  await from.setLocalDescription();
  await to.setRemoteDescription(from.localDescription);
  await to.setLocalDescription();
  await from.setRemoteDescription(to.localDescription);
}

async function tryStun(target, row) {
  const peer = new RTCPeerConnection({ iceServers: [{ urls: target.url }] });
  try {
    const errors = [];
    const gathered = gather(peer, "srflx", errors);
    peer.createDataChannel("try");
    await peer.setLocalDescription();
    const found = await within(GATHER_MS, gathered, () => silence(parts(target.url)));
    if (found) {
      row.find("candidate", `${shownAddress(found.address, found.port)} is where the server sees this browser`);
    } else if (errors.length > 0) {
      throw explain(errors, parts(target.url));
    } else {
      row.find("candidate", "the browser's own address only: no error came, so no NAT seems to lie between");
    }
  } finally {
    peer.close();
  }
}

async function tryTurn(target, row) {
  const { url, username, credential } = target;
  if (!username || !credential) throw new Trouble("A TURN URL needs `username` and `credential` beside `urls`.");
  const config = { iceServers: [{ urls: url, username, credential }], iceTransportPolicy: "relay" };
  const peers = [new RTCPeerConnection(config), new RTCPeerConnection(config)];
  try {
    const [near, far] = peers;
    const errors = [];
    const gathered = Promise.all(peers.map((peer) => gather(peer, "relay", errors)));
    near.addEventListener("icecandidate", ({ candidate }) => candidate && far.addIceCandidate(candidate).catch(() => {}));
    far.addEventListener("icecandidate", ({ candidate }) => candidate && near.addIceCandidate(candidate).catch(() => {}));
    far.addEventListener("datachannel", ({ channel }) => {
      channel.addEventListener("message", ({ data }) => channel.send(data));
    });
    const channel = near.createDataChannel("try");
    const opened = once(channel, "open");
    await offer(near, far);

    const late = () => explain(errors, parts(url));
    const relayed = await within(GATHER_MS, gathered, late);
    if (relayed.includes(null)) throw late();
    if (parts(url).isDtls && relayed[0].relayProtocol !== "udp") {
      throw new Unknown("In place of DTLS this browser spoke TLS over TCP with the same port, where it was answered. " +
        "Clients that speak DTLS may use this URL.");
    }
    row.find("candidate", `relayed from ${shownAddress(relayed[0].address, relayed[0].port)}`);

    await within(CONNECT_MS, opened, () => new Trouble(
      "The server gave relay addresses, but the two peers did not reach each other through them. Are the relay " +
      "ports open, and is the server allowed to send to its own relay address?"));
    row.find("rtt", `${(await roundTrip(channel)).toFixed(1)} ms, through the relay and back`);
    row.find("data", await sendAll(channel));
  } finally {
    peers.forEach((peer) => peer.close());
  }
}

/** The median of some pings, in ms. */
async function roundTrip(channel) {
  const times = [];
  for (let ping = 0; ping < PINGS; ping++) {
    const answered = once(channel, "message");
    const start = performance.now();
    channel.send(`ping ${ping}`);
    await within(ECHO_MS, answered, () => new Trouble("The peers connected, but a message got no answer: the path broke."));
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  return (times[(PINGS - 1) >> 1] + times[PINGS >> 1]) / 2;
}

/** Sends many messages and wants each back, whole and in order. */
async function sendAll(channel) {
  const message = (n) => `${n} `.padEnd(MESSAGE_CHARS, String.fromCharCode(97 + (n % 26)));
  let next = 0;
  const echoed = new Promise((resolve, reject) => {
    channel.addEventListener("message", ({ data }) => {
      if (data !== message(next)) reject(new Trouble(`Message ${next + 1} came back changed or out of order.`));
      else if (++next === MESSAGES) resolve();
    });
    channel.addEventListener("close", () => reject(new Trouble(`The path broke after ${next} messages.`)));
  });
  for (let n = 0; n < MESSAGES; n++) channel.send(message(n));
  await within(ECHO_MS, echoed, () => new Trouble(`Only ${next} of ${MESSAGES} messages came back in time.`));
  return `${MESSAGES} messages of ${MESSAGE_CHARS} bytes there and back, whole and in order`;
}

// The page

const PILLS = { running: "running …", ok: "works", failed: "failed", unknown: "cannot tell" };

/** A URL's row in the list. */
class Row {
  constructor(target) {
    this.element = byId("row").content.firstElementChild.cloneNode(true);
    this.element.dataset.url = target.url;
    this.set("url", target.url);
    const isTurn = /^turns?:/i.test(target.url);
    this.element.querySelectorAll(".relayed").forEach((field) => (field.hidden = !isTurn));
    this.state = "running";
    byId("results").append(this.element);
  }

  set state(state) {
    this.element.dataset.state = state;
    this.set("pill", PILLS[state]);
  }

  get state() {
    return this.element.dataset.state;
  }

  set(field, text) {
    this.element.querySelector(`.${field}`).textContent = text;
  }

  /** Fills in one of the findings. */
  find(field, text) {
    this.set(field, text);
    this.element.querySelector(`.${field}`).parentElement.dataset.known = "true";
  }

  fail(error) {
    const text = error instanceof Trouble ? error.message : `The browser refused: ${error.message ?? error}`;
    this.element.querySelector(".error").hidden = false;
    this.set("error", text);
    this.element.querySelectorAll("dl > div").forEach((field) => (field.hidden ||= !field.dataset.known));
    this.state = error instanceof Unknown ? "unknown" : "failed";
  }

  async try(target) {
    try {
      const { scheme } = parts(target.url);
      await (scheme.startsWith("turn") ? tryTurn : tryStun)(target, this);
      this.state = "ok";
    } catch (error) {
      this.fail(error);
    }
  }
}

async function runAll() {
  byId("results").replaceChildren();
  byId("summary").textContent = "Nothing tried yet.";
  if (!window.RTCPeerConnection) throw new Trouble("This browser has no WebRTC, or an extension took it away.");
  const targets = parseServers(byId("ice-servers").value);
  byId("summary").textContent = `Trying ${targets.length} URLs …`;
  const rows = targets.map((target) => new Row(target));
  await Promise.all(rows.map((row, at) => row.try(targets[at])));
  const works = rows.filter((row) => row.state === "ok").length;
  const failed = rows.filter((row) => row.state === "failed").length;
  const rest = [failed > 0 && `${failed} failed`, works + failed < rows.length && "this browser cannot tell of the rest"];
  byId("summary").textContent = works === rows.length
    ? `All ${works} URLs work.`
    : `${[`${works} of ${rows.length} URLs work`, ...rest].filter(Boolean).join(", ")}.`;
}

/** Runs one of the page's actions: the buttons wait, and what goes wrong is said at the input. */
async function act(...actions) {
  const buttons = [byId("run"), byId("mint")];
  buttons.forEach((button) => (button.disabled = true));
  byId("input-error").textContent = "";
  delete document.body.dataset.done;
  try {
    for (const action of actions) await action();
  } catch (error) {
    byId("input-error").textContent = error instanceof Trouble ? error.message : `It did not work: ${error.message}`;
  }
  buttons.forEach((button) => (button.disabled = false));
  if (actions.includes(runAll)) document.body.dataset.done = "true";
}

/** What a link brought along behind `#ice-servers=`. It is taken out of the address, which others may see. */
function broughtAlong() {
  const brought = new URLSearchParams(location.hash.slice(1)).get("ice-servers");
  if (brought === null) return false;
  byId("ice-servers").value = brought;
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

const isDev = document.body.dataset.dev === "true";
byId("mint").hidden = !isDev;
byId("mint").addEventListener("click", () => act(mint));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(runAll);
});
if (broughtAlong()) act(runAll);
else if (new URLSearchParams(location.search).has("auto")) act(...(isDev ? [mint, runAll] : [runAll]));
