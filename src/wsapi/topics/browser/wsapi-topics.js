/**
 * Topics over one WebSocket connection that comes back by itself: client of wsapi.topics.gateway.
 *
 *     import { Topics } from "./wsapi-topics.js";
 *
 *     const topics = new Topics("/topics");
 *     topics.subscribe("room.1", {
 *       onmessage: ({ data }) => show(data),
 *       onreload: () => loadAnew(),
 *     });
 *     await topics.publish("room.1", { text: "hello" });
 *
 * Works as it is in browsers and in Node; where there is no WebSocket, it is given one:
 * `new Topics(url, { WebSocket })`. All times are milliseconds.
 *
 * @license BSD-3-Clause
 */

const PROTOCOL = 1;

/** Close codes after which there is no coming back; 4000 to 4999 are among them, too. */
const FINAL = new Set([1000, 1003, 1008, 1010]);

const DEFAULTS = {
  protocols: [],
  minDelay: 1_000, // bound of the first random delay before a new connection
  maxDelay: 30_000, // bound of all of them
  restartDelay: 2_000, // in the place of minDelay when the server restarts (1012)
  laterDelay: 5_000, // least delay when the server asks for a later time (1013)
  stableAfter: 10_000, // a connection that has lasted so long makes delays begin anew
  connectTimeout: 10_000, // for the opening handshake and the server's first message
  requestTimeout: 30_000, // for the answer to a subscription; then the connection is given up
  publishTimeout: 15_000, // for the answer to publish(), in which it may wait for a connection
  pingInterval: 25_000, // of silence, after which the server is asked whether it is there
  pingTimeout: 10_000, // for its answer; then the connection is given up
  maxPending: 100, // publishes that wait for a connection or for an answer
};

const now = () => performance.now();

/** What went wrong: with a request, or with the connection. */
export class TopicsError extends Error {
  /**
   * @param {string} code - As the protocol has it, or "closed", "lost", "timeout", "queue_full".
   * @param {string} message - For people.
   * @param {object} [details] - `topic`; `retry`: whether it may succeed later, and wasn't done;
   *   `uncertain`: whether the server may have done it; `closeCode`, `closeReason` of the connection.
   */
  constructor(code, message, details = {}) {
    super(message);
    this.name = "TopicsError";
    this.code = code;
    this.topic = details.topic ?? null;
    this.retry = details.retry ?? false;
    this.uncertain = details.uncertain ?? false;
    this.closeCode = details.closeCode ?? null;
    this.closeReason = details.closeReason ?? null;
  }
}

/** A topic that messages come from, until `unsubscribe()`. Made by `Topics.subscribe()`. */
export class Subscription {
  #entry;
  #end;

  constructor(entry, end) {
    this.#entry = entry;
    this.#end = end;
  }

  /** Name of the topic. */
  get topic() {
    return this.#entry.topic;
  }

  /** Position of the last message, to be given as `since` by a later page; null without history. */
  get position() {
    return this.#entry.position;
  }

  /** "pending" until the server has answered, then "live"; "ended" for good. */
  get state() {
    return this.#entry.state;
  }

  /** Whether the server had all that was missed, when it answered last; null if that wasn't asked. */
  get recovered() {
    return this.#entry.recovered;
  }

  /** End it; no handler is called any more. The promise waits for the server, and never fails. */
  unsubscribe() {
    return this.#end(this.#entry);
  }
}

/** A connection to a gateway that is made again when it is lost, with its subscriptions. */
export class Topics {
  #url;
  #options;
  #state = "connecting";
  #link = null; // the connection: one at a time; whatever an older one tells is ignored
  #timer = null; // of the next attempt to connect
  #failures = 0; // connections in a row that didn't last
  #notBefore = 0; // the server asked for a later time
  #lastId = 0;
  #entries = new Map(); // topic -> subscription
  #requests = new Map(); // id -> subscribe or unsubscribe that was sent on this connection
  #publishes = new Map(); // id -> what isn't answered, in order, sent or not
  #listeners = [];

  /**
   * Connect, and stay connected until `close()`.
   *
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url - Of the gateway; in
   *   browsers it may be relative to the page. A function is called before each attempt, so that
   *   it can have a new token in it.
   * @param {object} [options] - See wsapi-topics.d.ts.
   */
  constructor(url, options = {}) {
    this.#options = { WebSocket: globalThis.WebSocket, ...DEFAULTS, ...options };
    if (typeof this.#options.WebSocket !== "function") {
      throw new TypeError("there is no WebSocket here: give one as an option");
    }
    this.#url = typeof url === "function" ? url : resolved(url);
    this.#listen();
    this.#connect();
  }

  /** "connecting", "open", "waiting" (for the next attempt), or "closed" (for good). */
  get state() {
    return this.#state;
  }

  /**
   * Subscribe to a topic, on this connection and all later ones.
   *
   * @param {string} topic - Name of the topic; once at a time.
   * @param {object} [handlers] - `onmessage`, `onsubscribed`, `onrecovered`, `onreload`, `ongap`,
   *   `onerror`; and `since`, a position that is known from before. See wsapi-topics.d.ts.
   * @returns {Subscription}
   */
  subscribe(topic, { since = null, ...handlers } = {}) {
    checkTopic(topic);
    if (since !== null && !isPosition(since)) {
      throw new TypeError("since is a position: [epoch, offset]");
    }
    if (this.#state === "closed") throw new TopicsError("closed", "closed", { topic });
    if (this.#entries.has(topic)) throw new Error(`subscribed to ${topic} already`);
    const entry = {
      topic,
      handlers,
      state: "pending",
      position: since && [...since],
      recovered: null,
      begun: false, // whether the server has answered, on whatever connection
      asked: false, // whether this connection has been asked
      failures: 0,
      timer: null,
    };
    this.#entries.set(topic, entry);
    if (this.#link?.greeted) this.#subscribe(entry);
    return new Subscription(entry, (ended) => this.#unsubscribe(ended));
  }

  /**
   * Publish a JSON value.
   *
   * Without a connection it waits for one, up to `timeout`; it is sent once, never again: if the
   * connection is lost before the answer comes, only the caller knows whether to repeat it.
   *
   * @param {string} topic - Name of the topic.
   * @param {*} data - What JSON can express.
   * @param {{timeout?: number}} [options] - In the place of `publishTimeout`.
   * @returns {Promise<[string, number] | null>} Its position; null without history. It is rejected
   *   with a TopicsError, whose `uncertain` tells whether the message may have been published.
   */
  async publish(topic, data, { timeout = this.#options.publishTimeout } = {}) {
    checkTopic(topic);
    const text =
      ArrayBuffer.isView(data) || data instanceof ArrayBuffer ? undefined : JSON.stringify(data);
    if (text === undefined) throw new TypeError("data isn't a value that JSON can express");
    if (this.#state === "closed") throw new TopicsError("closed", "closed", { topic });
    if (this.#publishes.size >= this.#options.maxPending) {
      throw new TopicsError("queue_full", `${this.#publishes.size} messages are waiting`, {
        topic,
        retry: true,
      });
    }
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      const timer = setTimeout(() => {
        this.#settle(id)?.fail(
          "timeout",
          publish.sent ? "no answer came in time" : "no connection in time",
        );
      }, timeout);
      const fail = (code, message, details) =>
        reject(
          new TopicsError(code, message, {
            topic,
            uncertain: publish.sent,
            retry: !publish.sent,
            ...details,
          }),
        );
      const frame = `{"type":"publish","id":${id},"topic":${JSON.stringify(topic)},"data":${text}}`;
      const publish = { frame, timer, resolve, fail, sent: false };
      this.#publishes.set(id, publish);
      if (this.#link?.greeted) this.#publish(id, publish);
    });
  }

  /** Close the connection for good. What waits for an answer is rejected. */
  close() {
    this.#finish(new TopicsError("closed", "closed"), 1000);
  }

  // ---------------------------------------------------------------- connections

  async #connect() {
    clearTimeout(this.#timer);
    const { WebSocket, protocols, connectTimeout } = this.#options;
    const link = {
      socket: null,
      greeted: false,
      opened: now(),
      heard: now(),
      silent: false, // nothing was heard since a ping; clocks of browsers are too coarse to tell
      timer: null,
      checking: false,
      limit: 0,
    };
    this.#link = link;
    link.timer = setTimeout(
      () => this.#lost(link, 1006, "no answer from the server"),
      connectTimeout,
    );
    this.#enter("connecting");
    try {
      const url = await (typeof this.#url === "function" ? this.#url() : this.#url);
      if (this.#link !== link) return; // closed meanwhile, or too late
      const socket = new WebSocket(resolved(url), protocols);
      link.socket = socket;
      socket.onmessage = (event) => this.#receive(link, event.data);
      socket.onclose = (event) => this.#lost(link, event.code, event.reason);
      socket.onerror = () => {}; // onclose follows; without a handler, Node's would throw
    } catch (error) {
      if (this.#link !== link) return;
      this.#report(error);
      this.#lost(link, 1006, String(error));
    }
  }

  /** Note that a connection has ended, or is of no use any more. */
  #lost(link, code, reason, final = false) {
    if (this.#link !== link) return;
    const lasted = link.greeted && now() - link.opened >= this.#options.stableAfter;
    this.#drop();
    for (const entry of this.#entries.values()) {
      clearTimeout(entry.timer);
      entry.state = "pending";
      entry.asked = false;
    }
    for (const [id, publish] of [...this.#publishes]) {
      if (!publish.sent) continue;
      this.#settle(id);
      publish.fail("lost", "the connection was lost before the answer came");
    }
    if (final || !this.#comesBack(code, reason)) {
      const text = `the server has closed the connection: ${code} ${reason}`.trim();
      this.#finish(new TopicsError("closed", text, { closeCode: code, closeReason: reason }));
    } else if (this.#state !== "closed") {
      // What was called just now may have closed all.
      this.#wait(code, reason, lasted);
    }
  }

  #comesBack(code, reason) {
    const wanted = this.#call(this.#options.comeBack, code, reason);
    return typeof wanted === "boolean"
      ? wanted
      : !(FINAL.has(code) || (code >= 4000 && code <= 4999));
  }

  /** Wait for the next attempt: a random time up to a bound that grows, so that not all come at once. */
  #wait(code, reason, lasted) {
    const { minDelay, maxDelay, restartDelay, laterDelay } = this.#options;
    if (lasted) this.#failures = 0;
    const first = code === 1012 ? restartDelay : minDelay;
    const least = code === 1013 ? laterDelay : 0;
    this.#notBefore = now() + least;
    const bound = Math.min(maxDelay, first * 2 ** this.#failures++);
    // A browser that knows of no network tells when it has one; it may be wrong, though.
    const offline = globalThis.navigator?.onLine === false;
    const delay = offline ? maxDelay : least + Math.random() * bound;
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#enter("waiting", { code, reason, delay });
  }

  /** The network is back, or somebody looks at the page: don't wait longer than at first. */
  #hurry() {
    if (this.#state === "waiting") {
      clearTimeout(this.#timer);
      const delay = Math.max(0, this.#notBefore - now()) + Math.random() * this.#options.minDelay;
      this.#timer = setTimeout(() => this.#connect(), delay);
    } else {
      this.#check();
    }
  }

  #listen() {
    const listen = (target, type, call) => {
      if (typeof target?.addEventListener !== "function") return;
      target.addEventListener(type, call);
      this.#listeners.push(() => target.removeEventListener(type, call));
    };
    listen(globalThis, "online", () => this.#hurry());
    listen(globalThis, "offline", () => this.#check());
    listen(globalThis, "pageshow", () => this.#hurry());
    listen(globalThis.document, "visibilitychange", () => {
      if (document.visibilityState === "visible") this.#hurry();
    });
  }

  /** Let go of the connection. */
  #drop(code) {
    const link = this.#link;
    this.#link = null;
    if (link === null) return;
    clearTimeout(link.timer);
    for (const request of [...this.#requests.values()]) {
      clearTimeout(request.timer);
      request.lost?.();
    }
    this.#requests.clear();
    const { socket } = link;
    if (socket === null) return;
    socket.onmessage = socket.onclose = null;
    try {
      socket.close(code);
    } catch {
      // It is closed already.
    }
  }

  /** End for good. */
  #finish(error, code) {
    if (this.#state === "closed") return;
    this.#state = "closed";
    const { closeCode, closeReason } = error;
    clearTimeout(this.#timer);
    this.#drop(code);
    for (const remove of this.#listeners.splice(0)) remove();
    const entries = [...this.#entries.values()];
    this.#entries.clear();
    for (const entry of entries) {
      clearTimeout(entry.timer);
      entry.state = "ended";
    }
    for (const [id, publish] of [...this.#publishes]) {
      this.#settle(id);
      publish.fail("closed", error.message, { closeCode, closeReason, retry: false });
    }
    // Who has closed it knows; others are told.
    if (code === undefined) {
      for (const { handlers, topic } of entries) {
        this.#call(
          handlers.onerror,
          new TopicsError(error.code, error.message, { topic, closeCode, closeReason }),
        );
      }
      this.#report(error);
    }
    this.#call(this.#options.onstate, "closed", { code: closeCode, reason: closeReason });
  }

  #enter(state, details = {}) {
    if (this.#state === state) return;
    this.#state = state;
    this.#call(this.#options.onstate, state, details);
  }

  // ---------------------------------------------------------------- liveness

  /** Look after the connection: silence is answered by a ping, and that has a deadline. */
  #watch(link) {
    const { pingInterval } = this.#options;
    clearTimeout(link.timer);
    link.timer = setTimeout(
      () => (now() - link.heard >= pingInterval ? this.#check() : this.#watch(link)),
      Math.max(0, link.heard + pingInterval - now()),
    );
  }

  /** Find out whether the server is there. */
  #check() {
    const link = this.#link;
    if (!link?.greeted || link.checking) return;
    link.checking = link.silent = true;
    clearTimeout(link.timer);
    link.timer = setTimeout(() => {
      link.checking = false;
      if (link.silent) this.#lost(link, 1006, "no answer from the server");
      else this.#watch(link);
    }, this.#options.pingTimeout);
    link.socket.send('{"type":"ping"}');
  }

  // ---------------------------------------------------------------- requests

  #send(request, members) {
    const id = ++this.#lastId;
    const link = this.#link;
    request.timer = setTimeout(
      () => this.#lost(link, 1006, "no answer from the server"),
      this.#options.requestTimeout,
    );
    this.#requests.set(id, request);
    link.socket.send(JSON.stringify({ ...members, id }));
  }

  #subscribe(entry) {
    entry.asked = true;
    const since = entry.position;
    this.#send(
      {
        answer: (answer) => {
          if (entry.state === "ended") return;
          const first = !entry.begun;
          Object.assign(entry, {
            state: "live",
            begun: true,
            failures: 0,
            recovered: answer.recovered ?? null,
          });
          if (entry.recovered !== true) entry.position = positionOf(answer);
          const { topic, position, recovered, handlers } = entry;
          const info = { topic, position, recovered };
          this.#call(handlers.onsubscribed, info);
          if (entry.state === "ended") return; // by that handler
          // Without history, nobody knows what was missed.
          if (recovered === true) this.#call(handlers.onrecovered, info);
          else if (recovered === false || !first) this.#call(handlers.onreload, info);
        },
        fail: (error) => {
          if (entry.state === "ended") return;
          entry.asked = false;
          if (error.retry) {
            const { minDelay, maxDelay } = this.#options;
            const delay = Math.random() * Math.min(maxDelay, minDelay * 2 ** entry.failures++);
            entry.timer = setTimeout(() => this.#subscribe(entry), delay);
          } else {
            entry.state = "ended";
            this.#entries.delete(entry.topic);
          }
          this.#call(entry.handlers.onerror, error);
        },
      },
      { type: "subscribe", topic: entry.topic, ...(since && { since }) },
    );
  }

  #unsubscribe(entry) {
    if (entry.state === "ended") return Promise.resolve();
    entry.state = "ended";
    clearTimeout(entry.timer);
    this.#entries.delete(entry.topic);
    if (!entry.asked) return Promise.resolve();
    return new Promise((resolve) => {
      // A failure says that there was no subscription.
      this.#send(
        { answer: resolve, fail: resolve, lost: resolve },
        { type: "unsubscribe", topic: entry.topic },
      );
    }).then(() => {});
  }

  #publish(id, publish) {
    if (this.#link.limit && sizeOf(publish.frame) > this.#link.limit) {
      this.#settle(id);
      publish.fail("too_large", `more than ${this.#link.limit} bytes`, { retry: false });
      return;
    }
    publish.sent = true;
    this.#link.socket.send(publish.frame);
    publish.frame = null;
  }

  /** Take a publish out of those that wait. */
  #settle(id) {
    const publish = this.#publishes.get(id);
    this.#publishes.delete(id);
    clearTimeout(publish?.timer);
    return publish;
  }

  // ---------------------------------------------------------------- messages

  #receive(link, text) {
    if (this.#link !== link) return;
    link.heard = now();
    link.silent = false;
    let message = null;
    try {
      message = JSON.parse(text);
    } catch {
      // Said below.
    }
    if (typeof message?.type !== "string" || (!link.greeted && message.type !== "hello")) {
      this.#refuse(link);
      return;
    }
    switch (message.type) {
      case "message":
        return this.#deliver(link, message);
      case "published":
        return this.#settle(message.id)?.resolve(positionOf(message));
      case "subscribed":
      case "unsubscribed":
        return this.#answered(message.id)?.answer(message);
      case "gap":
        return this.#gap(message.topic, positionOf(message));
      case "error":
        return this.#failed(message);
      case "hello":
        return this.#greet(link, message);
      // "pong" has been heard; others are of later versions.
    }
  }

  /** Give up a connection to something that isn't a gateway. */
  #refuse(link) {
    const reason = "the server doesn't speak the protocol of topics";
    this.#lost(link, 1002, reason);
    this.#report(new TopicsError("protocol", reason));
  }

  #greet(link, { protocol, max_message_size: limit }) {
    if (link.greeted) return;
    if (protocol !== PROTOCOL) {
      this.#lost(link, 1002, `the server speaks version ${protocol} of the protocol`, true);
      return;
    }
    link.greeted = true;
    link.limit = limit > 0 ? limit : 0;
    this.#watch(link);
    for (const entry of this.#entries.values()) this.#subscribe(entry);
    // After the subscriptions, which then get these messages, too.
    for (const [id, publish] of [...this.#publishes]) this.#publish(id, publish);
    this.#enter("open");
  }

  #deliver(link, message) {
    const entry = this.#entries.get(message.topic);
    if (entry?.state !== "live") return;
    const position = positionOf(message);
    const known = entry.position;
    if (position !== null && known !== null) {
      if (position[0] === known[0]) {
        if (position[1] <= known[1]) return; // it came already
      } else {
        this.#gap(message.topic, position);
        if (entry.state !== "live") return;
      }
    }
    let data;
    try {
      data = dataOf(message);
    } catch {
      this.#refuse(link); // before the message counts as one that came
      return;
    }
    entry.position = position ?? known;
    this.#call(entry.handlers.onmessage, { topic: message.topic, position, data });
  }

  #gap(topic, position) {
    const entry = this.#entries.get(topic);
    if (entry?.state !== "live") return;
    entry.position = position;
    const { ongap, onreload } = entry.handlers;
    this.#call(ongap ?? onreload, { topic, position, recovered: false });
  }

  #failed({ id, code, message, topic, retry }) {
    const error = new TopicsError(code, message, { topic, retry, uncertain: code === "uncertain" });
    const publish = this.#settle(id);
    if (publish) publish.fail(code, message, { retry: error.retry, uncertain: error.uncertain });
    else if (this.#requests.has(id)) this.#answered(id).fail(error);
    else this.#report(error);
  }

  #answered(id) {
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    clearTimeout(request?.timer);
    return request;
  }

  // ---------------------------------------------------------------- handlers

  #report(error) {
    this.#call(this.#options.onerror, error);
  }

  /** Call a handler. What it throws is for the page's or the program's own handler of errors. */
  #call(handler, ...values) {
    try {
      return handler?.(...values);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

function resolved(url) {
  const target = new URL(url, globalThis.location?.href);
  if (/^https?:$/.test(target.protocol)) target.protocol = target.protocol.replace("http", "ws");
  target.hash = "";
  return target.href;
}

function checkTopic(topic) {
  if (typeof topic !== "string" || topic === "")
    throw new TypeError("a topic is a string, and not empty");
}

function isPosition(value) {
  return (
    Array.isArray(value) &&
    value.length === 2 &&
    typeof value[0] === "string" &&
    Number.isSafeInteger(value[1])
  );
}

function positionOf({ position }) {
  return isPosition(position) ? position : null;
}

function dataOf({ data, text, base64 }) {
  if (typeof base64 === "string")
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return data === undefined ? text : data;
}

function sizeOf(text) {
  return new TextEncoder().encode(text).length;
}
