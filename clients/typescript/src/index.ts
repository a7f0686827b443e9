/**
 * A typed client of memstore servers, over the types that are generated from the server's OpenAPI document.
 *
 *     const memstore = new Memstore("http://127.0.0.1:8080");
 *     const reply = await memstore.answer("Who discovered radium?", { keep_k: 5 });
 *
 * Every operation of the document is at `memstore.http`, typed; the methods are those that are asked for most.
 */

import { EventSourceParserStream } from "eventsource-parser/stream";
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type { components, paths } from "./schema.js";

type Schemas = components["schemas"];
export type AnswerReply = Schemas["AnswerReply"];
export type AnswerBatchReply = Schemas["AnswerBatchReply"];
export type InfoReply = Schemas["InfoReply"];
export type PassageInput = Schemas["PassageInput"];
export type PassageReply = Schemas["PassageReply"];
export type Problem = Schemas["Problem"];
export type QuestionInput = Schemas["QuestionInput"];
export type RankedPassage = Schemas["RankedPassageReply"];
export type RerankReply = Schemas["RerankReply"];
export type RetrieveReply = Schemas["RetrieveReply"];

export type AnswerOptions = Omit<Schemas["AnswerRequest"], "question" | "stream">;
export type RetrieveOptions = Omit<Schemas["RetrieveRequest"], "question">;
export type RerankOptions = Omit<Schemas["RerankRequest"], "question" | "passages">;
export type BatchOptions = Omit<Schemas["AnswerBatchRequest"], "questions">;

/** One event of a streamed answer; the last one is `done`, with all that a plain reply says. */
export type AnswerEvent =
  | { event: "retrieved"; data: Schemas["RetrievedEvent"] }
  | { event: "ranked"; data: Schemas["RankedEvent"] }
  | { event: "token"; data: Schemas["TokenEvent"] }
  | { event: "done"; data: AnswerReply };

export interface MemstoreOptions {
  /** The server's key, sent with every request. */
  key?: string;
  /** Milliseconds to wait for a reply, and for the whole of a stream; 60,000 by default, 0 waits for ever. */
  timeout?: number;
  /** How requests are sent; the platform's `fetch` by default. */
  fetch?: (input: Request) => Promise<Response>;
}

/** A server-sent event as it travels. */
type Sent = { event?: string | undefined; data: string };

/** Anything but the reply that was asked for: the server's own problem, or no reply of a memstore server at all. */
export class MemstoreError extends Error {
  override readonly name = "MemstoreError";

  constructor(
    message: string,
    /** HTTP status of the reply; undefined where there was none. */
    readonly status?: number,
    /** The server's own account (RFC 9457); undefined where there was none. Its `type` is for programs. */
    readonly problem?: Problem,
    /** Seconds after which the server advises another try. */
    readonly retryAfter?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Asks a memstore server. Every method rejects with a `MemstoreError`. */
export class Memstore {
  /** Every operation of the server's OpenAPI document, as openapi-fetch offers it: `{ data, error, response }`. */
  readonly http: Client<paths>;
  readonly #timeout: number;

  constructor(baseUrl: string, options: MemstoreOptions = {}) {
    this.#timeout = options.timeout ?? 60_000;
    this.http = createClient<paths>({
      baseUrl,
      headers: options.key === undefined ? {} : { Authorization: `Bearer ${options.key}` },
      ...(options.fetch && { fetch: options.fetch }),
    });
  }

  /** Answers a question from the server's store, or from `passages` of the caller's own. */
  answer(question: string, options: AnswerOptions = {}): Promise<AnswerReply> {
    const asked = this.http.POST("/answer", { body: { ...options, question }, ...this.#limits() });
    return read(asked) as Promise<AnswerReply>; // the document's other form is that of `stream`
  }

  /** Answers several questions in one request; each item is an answer or a problem of its own. */
  answerBatch(questions: (string | QuestionInput)[], options: BatchOptions = {}): Promise<AnswerBatchReply> {
    const asked = questions.map((one) => (typeof one === "string" ? { question: one } : one));
    return read(this.http.POST("/answer/batch", { body: { ...options, questions: asked }, ...this.#limits() }));
  }

  /** The events of an answer as it is made, `done` last. Leaving the loop or `signal` stops the server's work. */
  async *stream(question: string, options: AnswerOptions = {}, signal?: AbortSignal): AsyncGenerator<AnswerEvent> {
    const stop = new AbortController();
    const signals = [stop.signal, this.#limits().signal, signal].filter((one) => one !== undefined);
    const body = { ...options, question, stream: true };
    try {
      const asked = this.http.POST("/answer", { body, parseAs: "stream", signal: AbortSignal.any(signals) });
      const stream: ReadableStream<Uint8Array> | null = await read(asked);
      if (stream === null) throw new MemstoreError("the stream has no body");
      const text = stream.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>);
      yield* events(text.pipeThrough(new EventSourceParserStream()));
    } catch (error) {
      throw failed(error);
    } finally {
      stop.abort();
    }
  }

  /** Finds passages, best first; fewer than `retrieve_k` if no more match. */
  retrieve(question: string, options: RetrieveOptions = {}): Promise<RetrieveReply> {
    return read(this.http.POST("/retrieve", { body: { ...options, question }, ...this.#limits() }));
  }

  /** Scores passages of the caller's own for a question, best first. */
  rerank(question: string, passages: PassageInput[], options: RerankOptions = {}): Promise<RerankReply> {
    return read(this.http.POST("/rerank", { body: { ...options, question, passages }, ...this.#limits() }));
  }

  /** A passage of the store by its id. */
  async passage(id: string, collection?: string): Promise<PassageReply> {
    if (id === "." || id === "..") throw new MemstoreError(`fetch cannot ask for a passage with the id ${id}`);
    const params = { path: { passage_id: id }, query: collection === undefined ? {} : { collection } };
    return read(this.http.GET("/passages/{passage_id}", { params, ...this.#limits() }));
  }

  /** A collection's model and store, the limits and defaults of its requests, and what others there are. */
  info(collection?: string): Promise<InfoReply> {
    const params = { query: collection === undefined ? {} : { collection } };
    return read(this.http.GET("/info", { params, ...this.#limits() }));
  }

  /** Whether the server can answer questions now. */
  async ready(): Promise<boolean> {
    const { response } = await this.http.GET("/ready", this.#limits()).catch((error) => Promise.reject(failed(error)));
    return response.ok;
  }

  #limits(): { signal?: AbortSignal } {
    return this.#timeout > 0 ? { signal: AbortSignal.timeout(this.#timeout) } : {};
  }
}

/** The reply of a request that was sent. */
async function read<T>(sent: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  try {
    const { data, error, response } = await sent;
    if (response.ok && data !== undefined) return data;
    throw refused(response, error);
  } catch (error) {
    throw failed(error);
  }
}

/** What to throw for a response without success. */
function refused(response: Response, error: unknown): MemstoreError {
  const where = `${response.status} ${response.url}`;
  const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  if (!isProblem || typeof error !== "object" || error === null) {
    return new MemstoreError(`${where}: not the reply of a memstore server`, response.status);
  }
  const problem = error as Problem;
  const advised = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfter = Number.isNaN(advised) ? undefined : advised;
  return new MemstoreError(`${where}: ${problem.title}: ${problem.detail}`, response.status, problem, retryAfter);
}

/** What to throw for whatever was thrown. */
function failed(error: unknown): MemstoreError {
  if (error instanceof MemstoreError) return error;
  const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : "";
  const message = `${error instanceof Error ? error.message : String(error)}${cause}`;
  return new MemstoreError(message, undefined, undefined, undefined, { cause: error });
}

/** A stream's events until `done`. Those of a later server are left out. */
async function* events(stream: ReadableStream<Sent>): AsyncGenerator<AnswerEvent> {
  for await (const { event, data } of stream as unknown as AsyncIterable<Sent>) {
    if (event === "error") {
      const problem: Problem = JSON.parse(data);
      throw new MemstoreError(`${problem.title}: ${problem.detail}`, problem.status, problem);
    }
    if (event === "retrieved" || event === "ranked" || event === "token" || event === "done") {
      yield { event, data: JSON.parse(data) } as AnswerEvent;
      if (event === "done") return;
    }
  }
  throw new MemstoreError("the stream ended before the answer was done");
}
