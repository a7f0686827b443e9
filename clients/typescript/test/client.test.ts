/** The client against a live server over a fake engine, at MEMSTORE_URL: tests/client/test_typescript.py starts it. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { type AnswerEvent, Memstore, MemstoreError, type PassageInput } from "../src/index.js";

const url = process.env["MEMSTORE_URL"] ?? "";
const key = process.env["MEMSTORE_KEY"] ?? "";
const memstore = new Memstore(url);

test("an answer comes with passages and usage", async () => {
  const filter = { lang: "en", year: { gte: 2000 } };
  const reply = await memstore.answer("why?", { retrieve_k: 5, keep_k: 1, filter });
  assert.equal(reply.answer, "why?!");
  assert.deepEqual(reply.passages.map((one) => [one.id, one.kept]), [["7:0", true], ["a/b:1", false]]);
  assert.equal(reply.usage.fid_flops, 100);
  assert.equal(reply.store.generation, 4);
});

test("a batch has an answer or a problem for each question", async () => {
  const { items } = await memstore.answerBatch(["a", { question: "impossible" }]);
  assert.equal(items[0]?.answer?.answer, "a!");
  assert.equal(items[1]?.problem?.status, 422);
});

test("passages are found, scored and read", async () => {
  assert.deepEqual((await memstore.retrieve("otters", { retrieve_k: 1 })).passages.map((one) => one.title), ["Otter"]);
  const own: PassageInput[] = [{ text: "a" }, { text: "b", id: "mine" }];
  assert.deepEqual((await memstore.rerank("why?", own)).passages.map((one) => one.id), ["mine", "own:0"]);
  assert.equal((await memstore.passage("a/b:1")).text, "An id with a slash.");
  assert.equal((await memstore.info()).model.name, "fake");
  assert.equal(await memstore.ready(), true);
});

test("a stream ends with what a plain reply says", async () => {
  const heard: AnswerEvent[] = [];
  for await (const event of memstore.stream("why not?")) heard.push(event);
  assert.deepEqual([...new Set(heard.map((one) => one.event))], ["retrieved", "ranked", "token", "done"]);
  const text = heard.map((one) => (one.event === "token" ? one.data.text : "")).join("");
  const last = heard.at(-1);
  assert(last?.event === "done");
  assert.equal(text, last.data.answer);
  const plain = await memstore.answer("why not?");
  assert.equal(text, plain.answer);
  assert.deepEqual(last.data.passages, plain.passages);
});

test("a stream that fails says why, before it begins and in its middle", async () => {
  const all = async (question: string) => {
    for await (const _ of memstore.stream(question));
  };
  await assert.rejects(all("impossible"), (error: MemstoreError) => {
    return error.status === 422 && error.problem?.type === "urn:memstore:problem:impossible-request";
  });
  await assert.rejects(all("halfway"), (error: MemstoreError) => {
    return error.problem?.type === "urn:memstore:problem:internal";
  });
});

test("a stream that is left is over", async () => {
  for await (const event of memstore.stream("a b c d e f")) {
    assert.equal(event.event, "retrieved");
    break;
  }
  assert.equal(await memstore.ready(), true);
});

test("problems become errors", async () => {
  await assert.rejects(memstore.passage("nope"), (error: MemstoreError) => {
    assert(error instanceof MemstoreError);
    assert.equal(error.status, 404);
    assert.equal(error.problem?.type, "urn:memstore:problem:passage-not-found");
    return /no passage with id 'nope'/.test(error.message);
  });
  await assert.rejects(memstore.answer("why?", { retrieve_k: 999 }), /999 is more than 200/);
  await assert.rejects(memstore.passage(".."), /cannot ask for a passage with the id \.\./);
});

test("the key opens what changes the store, by the typed operations", async () => {
  const { error, response } = await memstore.http.POST("/admin/reload");
  assert.equal(response.status, 401);
  assert.equal(error?.type, "urn:memstore:problem:unauthorized");
  const { data } = await new Memstore(url, { key }).http.POST("/admin/reload");
  assert.equal(data?.generation, 4);
});

test("nobody there, another service, and a server that is silent", async () => {
  await assert.rejects(new Memstore("http://127.0.0.1:1").info(), (error: MemstoreError) => {
    return error instanceof MemstoreError && error.status === undefined;
  });
  const other = createServer((request, response) => {
    if (request.url === "/info") response.writeHead(404, { "Content-Type": "text/html" }).end("<p>not here</p>");
  });
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const address = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
  try {
    await assert.rejects(new Memstore(address).info(), /404 .*: not the reply of a memstore server/);
    await assert.rejects(new Memstore(address, { timeout: 50 }).answer("why?"), /timeout/i);
  } finally {
    other.closeAllConnections();
    other.close();
  }
});

/** What must not compile; `tsc` fails where it does. */
export function wrong(): unknown[] {
  return [
    // @ts-expect-error a number
    () => memstore.answer(1),
    // @ts-expect-error an option that is none
    () => memstore.answer("why?", { retrieve: 5 }),
    // @ts-expect-error a passage without a text
    () => memstore.rerank("why?", [{ title: "a" }]),
    // @ts-expect-error a key that no reply has
    async () => (await memstore.answer("why?")).reply,
    // @ts-expect-error a route that there is not
    () => memstore.http.GET("/nowhere"),
  ];
}
