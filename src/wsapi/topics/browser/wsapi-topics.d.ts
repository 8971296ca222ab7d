/** Where in the history of a topic a message stands: epoch and offset. */
export type Position = readonly [epoch: string, offset: number];

export type State = "connecting" | "open" | "waiting" | "closed";

export interface Message {
  topic: string;
  /** null if the topic has no history. */
  position: Position | null;
  /** A JSON value; a string, or a Uint8Array, if something else was published. */
  data: any;
}

export interface Info {
  topic: string;
  /** After which messages begin; null if the topic has no history. */
  position: Position | null;
  /** Whether the server has all that was missed; null if that can't be known. */
  recovered: boolean | null;
}

export interface StateDetails {
  /** Close code of the connection that was lost; 1006 if there was none. */
  code?: number | null;
  reason?: string | null;
  /** Milliseconds until the next attempt, in state "waiting". */
  delay?: number;
}

export interface Handlers {
  /** A message was published. Each one comes once, and in order. */
  onmessage?(message: Message): void;
  /** The server has answered: at first, and on each connection afterwards. */
  onsubscribed?(info: Info): void;
  /** After a lost connection: all that was missed follows as messages. */
  onrecovered?(info: Info): void;
  /** After a lost connection, or with an old `since`: messages are missing, load the state anew. */
  onreload?(info: Info): void;
  /** The server says that messages are missing; without this handler, `onreload` is called. */
  ongap?(info: Info): void;
  /** The subscription has failed. If `error.retry`, it is tried again; otherwise it has ended. */
  onerror?(error: TopicsError): void;
  /** Position of the last message that is known from before, such as from an earlier page. */
  since?: Position | null;
}

/** All times are milliseconds. */
export interface Options {
  /** Constructor of connections, such as that of npm's "ws"; by default that of the platform. */
  WebSocket?: new (url: string, protocols?: string | string[]) => any;
  /** Subprotocols to offer. */
  protocols?: string | string[];
  /** The connection's state has changed. */
  onstate?(state: State, details: StateDetails): void;
  /** Something failed that concerns no subscription or request; or the server has closed for good. */
  onerror?(error: unknown): void;
  /**
   * Whether to connect again after a close code; undefined for the rule, which is that 1000, 1003,
   * 1008, 1010, and 4000 to 4999 are final.
   */
  comeBack?(code: number, reason: string): boolean | undefined;
  /** Bound of the first random delay before a new connection; it doubles each time. Default 1000. */
  minDelay?: number;
  /** Bound of all delays. Default 30000. */
  maxDelay?: number;
  /** In the place of `minDelay` when the server restarts (1012). Default 2000. */
  restartDelay?: number;
  /** Least delay when the server asks for a later time (1013). Default 5000. */
  laterDelay?: number;
  /** A connection that has lasted so long makes delays begin anew. Default 10000. */
  stableAfter?: number;
  /** For the opening handshake and the server's first message. Default 10000. */
  connectTimeout?: number;
  /** For the answer to a subscription; then the connection is given up. Default 30000. */
  requestTimeout?: number;
  /** For the answer to `publish()`, in which it may wait for a connection. Default 15000. */
  publishTimeout?: number;
  /** Of silence, after which the server is asked whether it is there. Default 25000. */
  pingInterval?: number;
  /** For its answer; then the connection is given up. Default 10000. */
  pingTimeout?: number;
  /** Publishes that wait for a connection or for an answer; more are rejected. Default 100. */
  maxPending?: number;
}

/** What went wrong: with a request, or with the connection. */
export class TopicsError extends Error {
  constructor(code: string, message: string, details?: Partial<TopicsError>);
  /**
   * As the protocol has it ("forbidden", "unavailable", ...), or "closed", "lost", "timeout",
   * "queue_full", "protocol".
   */
  readonly code: string;
  readonly topic: string | null;
  /** Whether the same may succeed later, and wasn't done. */
  readonly retry: boolean;
  /** Whether the server may have done it all the same. */
  readonly uncertain: boolean;
  readonly closeCode: number | null;
  readonly closeReason: string | null;
}

/** A topic that messages come from, until `unsubscribe()`. */
export class Subscription {
  private constructor();
  readonly topic: string;
  /** Position of the last message, to be given as `since` by a later page; null without history. */
  readonly position: Position | null;
  readonly state: "pending" | "live" | "ended";
  readonly recovered: boolean | null;
  /** End it; no handler is called any more. The promise waits for the server, and never fails. */
  unsubscribe(): Promise<void>;
}

/** A connection to a gateway that is made again when it is lost, with its subscriptions. */
export class Topics {
  /**
   * Connect, and stay connected until `close()`.
   *
   * @param url - Of the gateway; in browsers it may be relative to the page. A function is called
   *   before each attempt, so that it can have a new token in it.
   */
  constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: Options);
  readonly state: State;
  /** Subscribe to a topic, on this connection and all later ones; once at a time. */
  subscribe(topic: string, handlers?: Handlers): Subscription;
  /**
   * Publish a JSON value; returns its position, null without history.
   *
   * Without a connection it waits for one, up to the timeout. It is never sent twice: if the
   * connection is lost before the answer comes, it is rejected with `uncertain`.
   */
  publish(topic: string, data: unknown, options?: { timeout?: number }): Promise<Position | null>;
  /** Close the connection for good. What waits for an answer is rejected. */
  close(): void;
}
