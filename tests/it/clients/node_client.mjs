// The three steps of a client with Node's `https`: list the tasks, download the tool, upload each report.
//
//   node node_client.mjs TOOL REPORT...
//
// TOOL is where the tool is saved. The environment says where the server is (CLEANER_URL), and whom Node trusts.

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createReadStream, createWriteStream } from "node:fs";
import { Agent, request } from "node:https";
import { basename } from "node:path";
import { json, text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";

const [tool, ...reports] = process.argv.slice(2);
const api = `${process.env.CLEANER_URL}/xyz/api/cleaner/tasks`;
const agent = new Agent({ keepAlive: true });

async function main() {
  const { tasks: [task] } = await json(await send("GET", api));

  await pipeline(await send("GET", `${api}/download?id=${task.id}`), createWriteStream(tool));

  for (const report of reports) {
    const boundary = randomUUID();
    const headers = { "Content-Type": `multipart/form-data; boundary=${boundary}` };
    const answer = await send("POST", `${api}/report?id=${task.id}`, headers, multipart(report, boundary));
    const { id, status } = await json(answer);
    if (id !== task.id || status !== "PASSED") {
      throw new Error(`${report} has not passed: task ${id}, status ${status}`);
    }
  }

  console.log("ok");
}

// The body goes out as it is read, in chunks: no Content-Length says how much will come.
async function send(method, target, headers = {}, body = []) {
  const outgoing = request(target, { method, headers, agent, signal: AbortSignal.timeout(20_000) });
  const [[answer]] = await Promise.all([once(outgoing, "response"), pipeline(body, outgoing)]);
  if (answer.statusCode !== 200) {
    throw new Error(`${method} ${target} answers ${answer.statusCode}: ${await text(answer)}`);
  }
  return answer;
}

async function* multipart(path, boundary) {
  yield `--${boundary}\r\n`;
  yield `Content-Disposition: form-data; name="file"; filename="${basename(path)}"\r\n`;
  yield "Content-Type: application/zip\r\n\r\n";
  yield* createReadStream(path);
  yield `\r\n--${boundary}--\r\n`;
}

try {
  await main();
} catch (error) {
  console.error(`node_client.mjs: ${error.message || error.code}`);
  process.exitCode = 1;
}
