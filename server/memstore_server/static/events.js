/**
 * Server-sent events out of a reply's body. The browser's own EventSource can only GET.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{name: string, data: string}>} whole events only; comments are left out
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (unread + value).split("\n\n");
    unread = blocks.pop() ?? "";
    for (const block of blocks) {
      const name = field(block, "event");
      if (name) yield { name, data: field(block, "data") };
    }
  }
}

/** @param {string} block @param {string} name @returns {string} its lines of that name, joined */
function field(block, name) {
  const lines = block.split("\n").filter((line) => line.startsWith(`${name}: `));
  return lines.map((line) => line.slice(name.length + 2)).join("\n");
}
