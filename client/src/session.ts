// The conversation over one connection.
//
//     greeting ---welcome---> following <---welcome--- subscribing
//         |                      |                         ^
//         +---welcome, filters---+----- resubscribe -------+
//
// The server answers both the upgrade and a `subscribe` with `welcome`. A `subscribe` always says where to begin. Frames
// that come between it and its welcome still belong to the previous subscription. They are dropped: whatever matters in
// them comes again.
import { Acknowledgements } from "./acknowledgements.ts";
import type { ConnectionStats } from "./backoff.ts";
import { Connection, type End } from "./connection.ts";
import { FeedError } from "./errors.ts";
import { MalformedFrame, readServerMessage, UnknownFrame } from "./guards.ts";
import type { InboxItem } from "./inbox.ts";
import type { Progress } from "./progress.ts";
import type {
  ChangesMessage,
  ClientMessage,
  ErrorMessage,
  FilterWarning,
  Position,
  ResetMessage,
  ServerMessage,
  Subscription,
  WelcomeMessage,
} from "./protocol.ts";
import type { Step } from "./sequence.ts";
import type { Callbacks, Settings } from "./settings.ts";

/** How a session ended. */
export type Outcome =
  /** The inbox is full. */
  | { kind: "full" }
  /** Another session can continue. */
  | { kind: "lost"; error: FeedError }
  /** No other session would do better. */
  | { kind: "failed"; error: FeedError };

/** The end of a session. */
export interface Ending {
  outcome: Outcome;
  /** How its connection went; undefined if it never opened. */
  stats: ConnectionStats | undefined;
}

/** What a session needs of whoever opened it. */
export interface SessionOwner {
  /** The server has accepted what is subscribed to. */
  subscribed(): void;
  /** The server has refused the subscription. Returns false if there is no earlier one to restore. */
  refused(error: FeedError): boolean;
  /** Something for the reader of the feed. Returns false if too much waits for it now. */
  deliver(item: InboxItem, size: number): boolean;
  /** Called once, as the last thing. */
  ended(ending: Ending): void;
}

/** What a session works on. */
export interface SessionContext {
  owner: SessionOwner;
  progress: Progress;
  settings: Settings;
  callbacks: Callbacks;
}

/** One connection of a feed. */
export class Session {
  readonly #owner: SessionOwner;
  readonly #progress: Progress;
  readonly #settings: Settings;
  readonly #callbacks: Callbacks;
  readonly #acknowledgements: Acknowledgements;
  readonly #connection: Connection;
  #phase: "greeting" | "subscribing" | "following" = "greeting";
  /** The subscriptions that the server was last told of. */
  #requested: readonly Subscription[] | undefined;
  /** Where the last `subscribe` asked to begin; undefined: at the earliest. */
  #asked: Position | undefined;
  /** Why this side ended it; undefined if the connection ended by itself. */
  #outcome: Outcome | undefined;
  #madeProgress = false;

  /** Opens the connection. Throws what the constructor of the WebSocket throws, for an invalid URL. */
  constructor({ owner, progress, settings, callbacks }: SessionContext, url: URL, protocols: string[]) {
    this.#owner = owner;
    this.#progress = progress;
    this.#settings = settings;
    this.#callbacks = callbacks;
    this.#requested = progress.subscriptions;
    this.#acknowledgements = new Acknowledgements(settings.ack, (position) => this.#send({ type: "ack", position }));
    const listener = {
      text: (frame: string) => this.#text(frame),
      binary: () => this.#lose("protocol", "the server sent a binary frame"),
      end: (end: End) => this.#end(end),
    };
    this.#connection = new Connection(url, protocols, listener, settings.watch, settings.WebSocket);
  }

  /** Ends it from this side. */
  end(reason: string): void {
    this.#lose("connection", reason);
  }

  /** The subscriptions have changed. */
  resubscribe(): void {
    // While a welcome is still due, a second one could answer either request. In that case the welcome triggers it.
    if (this.#phase === "following") this.#subscribe();
  }

  #text(frame: string): void {
    this.#callbacks.onFrame(frame);
    let message: ServerMessage;
    try {
      message = readServerMessage(frame);
    } catch (error) {
      if (!(error instanceof MalformedFrame)) throw error;
      if (!(error instanceof UnknownFrame)) return this.#lose("protocol", `invalid frame: ${error.message}`, error);
      // A later server may send more. The positions in the known frames show whether anything is missing.
      return this.#callbacks.onError(new FeedError("protocol", `unknown frame: ${error.message}`, { retryable: true, cause: error }));
    }
    switch (message.type) {
      case "welcome":
        return this.#welcome(message);
      case "warnings":
        return this.#warnings(message.warnings);
      case "changes":
        return this.#changes(message, frame.length);
      case "caught_up":
        return this.#moved(message.position, "live");
      case "progress":
        return this.#moved(message.position, "moved");
      case "reset":
        return this.#reset(message);
      case "error":
        return this.#error(message);
      default:
        return unreachable(message);
    }
  }

  #welcome(welcome: WelcomeMessage): void {
    if (this.#phase === "following") return;
    const isGreeting = this.#phase === "greeting";
    if (this.#progress.subscriptions !== this.#requested || (isGreeting && this.#progress.isFiltered)) {
      return this.#subscribe(isGreeting ? welcome.head : this.#asked);
    }
    this.#phase = "following";
    // The answer to an upgrade needs no acknowledgement: nothing was sent before it.
    if (!isGreeting) this.#acknowledgements.subscribed(welcome.position);
    const item = this.#progress.welcome(welcome, this.#asked);
    if (item !== undefined) this.#owner.deliver(item, 0);
    this.#callbacks.onState({ status: "catching_up", welcome });
    if (welcome.warnings !== undefined) this.#callbacks.onWarnings(welcome.warnings);
    this.#owner.subscribed();
  }

  #warnings(warnings: FilterWarning[]): void {
    // Before the welcome they concern the previous subscription. The welcome brings its own.
    if (this.#phase === "following") this.#callbacks.onWarnings(warnings);
  }

  /** `now`: the head when the client connected. The head in the answer may be ahead of it. */
  #subscribe(now?: Position): void {
    const { next, subscriptions = [] } = this.#progress;
    this.#phase = "subscribing";
    this.#acknowledgements.abandon();
    this.#requested = this.#progress.subscriptions;
    this.#asked = next === "earliest" ? undefined : (next ?? now);
    this.#send({ type: "subscribe", subscriptions, after: this.#asked ?? "earliest" });
  }

  #changes({ changes, from, to, catchUp }: ChangesMessage, size: number): void {
    if (this.#phase !== "following") return;
    const step = this.#progress.take({ changes, from, to });
    const acknowledge = this.#acknowledgements.received(size);
    if (!this.#follows(step)) return;
    // A frame without anything new takes no room here, but the server counts it as sent. It is acknowledged in its turn.
    const hasRoom =
      step.kind === "changes"
        ? this.#owner.deliver({ kind: "batch", changes: step.changes, from, to, catchUp, acknowledge }, size)
        : this.#owner.deliver({ kind: "moved", to: this.#progress.position ?? to, acknowledge }, 0);
    if (!hasRoom) this.#finish({ kind: "full" });
  }

  #moved(to: Position, kind: "moved" | "live"): void {
    if (this.#phase !== "following") return;
    const step = this.#progress.moveTo(to);
    if (!this.#follows(step)) return;
    if (kind === "live") this.#madeProgress = true;
    // The feed may already be ahead of a position that the server repeats.
    if (kind === "live" || step.kind === "moved") this.#owner.deliver({ kind, to: this.#progress.position ?? to }, 0);
  }

  /** Whether the feed can continue after this step. If not, the next connection begins where the feed stands. */
  #follows(step: Step | undefined): step is Exclude<Step, { kind: "gap" }> {
    if (step === undefined) return false;
    if (step.kind === "gap") {
      this.#lose("gap", step.message);
      return false;
    }
    if (step.kind !== "known") this.#madeProgress = true;
    return true;
  }

  #reset({ reason }: ResetMessage): void {
    this.#progress.startOver(reason, this.#settings.afterReset);
    this.#lose("reset", `the feed was reset: ${reason}`);
  }

  #error({ code, message, retryable }: ErrorMessage): void {
    const error = new FeedError("server", `${code}: ${message}`, { retryable, code });
    // An acknowledgement may be out of date. The server continues.
    if (this.#phase === "following" || code === "bad_position") return this.#callbacks.onError(asRetryable(error));
    // The next connection has a fresh ticket, or is refused with a reason.
    if (code === "ticket_expired") return this.#finish({ kind: "lost", error: asRetryable(error) });
    // Whether refused for good or for now, the previous subscription continues, over another connection: its frames
    // since the `subscribe` were dropped.
    const isAnswer = !retryable || this.#phase === "subscribing";
    if ((isAnswer && this.#owner.refused(error)) || retryable) return this.#finish({ kind: "lost", error: asRetryable(error) });
    this.#finish({ kind: "failed", error });
  }

  #send(message: ClientMessage): void {
    this.#connection.send(JSON.stringify(message));
  }

  #lose(kind: "connection" | "protocol" | "gap" | "reset", message: string, cause?: unknown): void {
    this.#finish({ kind: "lost", error: new FeedError(kind, message, { retryable: true, cause }) });
  }

  #finish(outcome: Outcome): void {
    this.#outcome ??= outcome;
    this.#connection.close("ended by this side");
  }

  #end({ lastedMs, code, reason }: End): void {
    this.#acknowledgements.abandon();
    const outcome = this.#outcome ?? { kind: "lost", error: new FeedError("connection", reason, { retryable: true }) };
    const { receivedChars } = this.#acknowledgements;
    const stats = lastedMs === undefined ? undefined : { lastedMs, madeProgress: this.#madeProgress, receivedChars, code };
    this.#owner.ended({ outcome, stats });
  }
}

/** The same error for a feed that continues without what the server refused. */
function asRetryable({ kind, message, code }: FeedError): FeedError {
  return new FeedError(kind, message, { retryable: true, code });
}

function unreachable(value: never): never {
  throw new TypeError(`not part of this protocol: ${JSON.stringify(value)}`);
}
