// What is said over one connection.
//
//     greeting ---welcome---> following <---welcome--- subscribing
//         |                      |                         ^
//         +---welcome, filters---+----- resubscribe -------+
//
// The server answers both the upgrade and a `subscribe` with `welcome`. Between a `subscribe`, which
// always says where to begin, and its welcome, what comes still belongs to the subscription before,
// and is dropped: all of it that matters comes again.
import { Acknowledgements } from "./acknowledgements.ts";
import type { Course } from "./backoff.ts";
import { Connection, type End } from "./connection.ts";
import { FeedError } from "./errors.ts";
import { MalformedFrame, readServerMessage, UnknownFrame } from "./guards.ts";
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
import type { Receiver } from "./receiver.ts";
import { Sequence, type Step } from "./sequence.ts";

/** How a session ended. */
export type Outcome =
  /** The inbox is full. */
  | { kind: "full" }
  /** Another one can go on. */
  | { kind: "lost"; error: FeedError }
  /** No other one will fare better. */
  | { kind: "failed"; error: FeedError };

/** The end of a session. */
export interface Ending {
  outcome: Outcome;
  /** How its connection went; undefined if it never opened. */
  course: Course | undefined;
}

/** One connection of a receiver. */
export class Session {
  readonly #receiver: Receiver;
  readonly #connection: Connection;
  readonly #ended: (ending: Ending) => void;
  #phase: "greeting" | "subscribing" | "following" = "greeting";
  /** What the server was last told that we want. */
  #wanted: readonly Subscription[] | undefined;
  /** Where the last `subscribe` asked to begin; undefined for the earliest. */
  #asked: Position | undefined;
  /** Why this side ended it; else the connection says. */
  #outcome: Outcome | undefined;
  readonly #acknowledgements: Acknowledgements;
  #broughtNews = false;

  constructor(receiver: Receiver, url: URL, protocols: string[], ended: (ending: Ending) => void) {
    this.#receiver = receiver;
    this.#ended = ended;
    this.#wanted = receiver.subscriptions;
    const { watch, WebSocket, ack } = receiver.reception;
    this.#acknowledgements = new Acknowledgements(ack, (position) => this.#say({ type: "ack", position }));
    const listener = {
      text: (frame: string) => this.#text(frame),
      binary: () => this.#lose("protocol", "the server sent a binary frame"),
      end: (end: End) => this.#end(end),
    };
    this.#connection = new Connection(url, protocols, listener, watch, WebSocket);
  }

  /** Ends it from this side. */
  end(reason: string): void {
    this.#lose("connection", reason);
  }

  /** What is subscribed to has changed. */
  resubscribe(): void {
    // Before a welcome that is due a second one could be for either: it is asked for after that.
    if (this.#phase === "following") this.#subscribe();
  }

  #text(frame: string): void {
    this.#receiver.reception.onFrame(frame);
    let message: ServerMessage;
    try {
      message = readServerMessage(frame);
    } catch (error) {
      if (!(error instanceof MalformedFrame)) throw error;
      if (!(error instanceof UnknownFrame)) return this.#lose("protocol", `a frame is not of this protocol: ${error.message}`, error);
      // A later server may tell more; the positions of the frames that are known show whether anything is missing.
      return this.#receiver.reception.onError(
        new FeedError("protocol", `a frame is not known here: ${error.message}`, { retryable: true, cause: error }),
      );
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
    const receiver = this.#receiver;
    if (this.#phase === "following") return;
    const isGreeting = this.#phase === "greeting";
    if (receiver.subscriptions !== this.#wanted || (isGreeting && receiver.isFiltered))
      return this.#subscribe(isGreeting ? welcome.head : this.#asked);
    this.#phase = "following";
    if (!isGreeting) this.#acknowledgements.subscribed(welcome.position);
    const { sequence, start, reset } = receiver;
    const to = sequence?.position ?? this.#asked ?? (start === "earliest" ? welcome.oldest : welcome.head);
    receiver.sequence = sequence ?? new Sequence(to);
    receiver.reset = undefined;
    if (reset !== undefined) receiver.reception.inbox.push({ kind: "reset", reason: reset, to }, 0);
    else if (sequence === undefined) receiver.reception.inbox.push({ kind: "moved", to }, 0);
    receiver.reception.onState({ status: "catching_up", welcome });
    if (welcome.warnings !== undefined) receiver.reception.onWarnings(welcome.warnings);
    receiver.agreed();
  }

  #warnings(warnings: FilterWarning[]): void {
    // Before the welcome they are of the subscription before, and it brings its own.
    if (this.#phase === "following") this.#receiver.reception.onWarnings(warnings);
  }

  /** `now`: the head when we came, which the answer's own may be ahead of. */
  #subscribe(now?: Position): void {
    const { sequence, start, subscriptions = [] } = this.#receiver;
    this.#phase = "subscribing";
    this.#acknowledgements.abandon();
    this.#wanted = this.#receiver.subscriptions;
    this.#asked = sequence?.position ?? (start === "now" ? now : undefined);
    this.#say({ type: "subscribe", subscriptions, after: this.#asked ?? "earliest" });
  }

  #changes({ changes, from, to, catchUp }: ChangesMessage, size: number): void {
    if (this.#phase !== "following") return;
    const step = this.#receiver.sequence?.take({ changes, from, to });
    const { inbox } = this.#receiver.reception;
    const acknowledge = this.#acknowledgements.received(size);
    if (!this.#follows(step)) return;
    switch (step.kind) {
      case "changes":
        inbox.push({ kind: "batch", changes: step.changes, from, to, catchUp, acknowledge }, size);
        break;
      case "moved":
        inbox.push({ kind: "moved", to, acknowledge }, 0);
        break;
      case "known":
        // It takes no room here, but the server counts it as sent. It is acknowledged after what came before it.
        inbox.push({ kind: "moved", to: this.#receiver.sequence?.position ?? to, acknowledge }, 0);
        break;
      default:
        return unreachable(step);
    }
    if (inbox.size > this.#receiver.reception.maxBuffered) this.#finish({ kind: "full" });
  }

  #moved(to: Position, kind: "moved" | "live"): void {
    if (this.#phase !== "following") return;
    const step = this.#receiver.sequence?.moveTo(to);
    if (!this.#follows(step)) return;
    if (kind === "live") this.#broughtNews = true;
    if (kind === "live" || step.kind === "moved") {
      // What came before may be ahead of a head that is told twice.
      this.#receiver.reception.inbox.push({ kind, to: this.#receiver.sequence?.position ?? to }, 0);
    }
  }

  /** Whether a step leads on; else the connection is given up, and the next one begins where we stand. */
  #follows(step: Step | undefined): step is Exclude<Step, { kind: "gap" }> {
    if (step === undefined) return false;
    if (step.kind === "gap") {
      this.#lose("gap", step.message);
      return false;
    }
    if (step.kind !== "known") this.#broughtNews = true;
    return true;
  }

  #reset({ reason }: ResetMessage): void {
    const receiver = this.#receiver;
    receiver.sequence = undefined;
    receiver.reset = reason;
    receiver.start = receiver.reception.afterReset;
    this.#lose("reset", `the feed was reset: ${reason}`);
  }

  #error({ code, message, retryable }: ErrorMessage): void {
    const error = new FeedError("server", `${code}: ${message}`, { retryable, code });
    // An expired ticket is followed by a new one, or by a refusal that tells.
    const isTemporary = retryable || code === "ticket_expired";
    // An acknowledgement may be out of date, and the server goes on.
    if (this.#phase === "following" || code === "bad_position") return this.#receiver.reception.onError(asRetryable(error));
    // The subscription before goes on, over another connection: what came of it meanwhile was dropped.
    if (retryable && this.#phase === "subscribing" && this.#receiver.refused(error)) return this.#finish({ kind: "lost", error });
    if (isTemporary) return this.#finish({ kind: "lost", error: asRetryable(error) });
    if (this.#receiver.refused(error)) this.#finish({ kind: "lost", error: asRetryable(error) });
    else this.#finish({ kind: "failed", error });
  }

  #say(message: ClientMessage): void {
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
    this.#ended({ outcome, course: lastedMs === undefined ? undefined : { lastedMs, broughtNews: this.#broughtNews, code } });
  }
}

/** What the server will not take again, the feed goes on without. */
function asRetryable({ kind, message, code }: FeedError): FeedError {
  return new FeedError(kind, message, { retryable: true, code });
}

function unreachable(value: never): never {
  throw new TypeError(`not of this protocol: ${JSON.stringify(value)}`);
}
