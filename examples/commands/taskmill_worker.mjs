// SPDX-License-Identifier: Apache-2.0
// Tasks in JavaScript for `mode: persistent` of a Taskmill commands file. Copy this file beside yours:
//
//     import { Retry, tasks } from "./taskmill_worker.mjs";
//
//     await tasks({
//       "thumbs.resize": async ([path], { width = 100 }, call) => {
//         ...                        // returning completes the task, a thrown Retry asks for another
//       },                           // attempt, any other error fails it
//     });
//
// `call` has id, task, namespace, attempt, retries_left, deadline, headers, sent. Integers above 2^53 lose
// their last digits, as everywhere in JavaScript.
import { Console } from "node:console";

export class Retry extends Error {}

// What JSON lacks comes as an object of one key.
function value(key, found) {
  if (found === null || typeof found !== "object" || Object.keys(found).length !== 1) return found;
  if (typeof found.$bytes === "string") return Buffer.from(found.$bytes, "base64");
  if (typeof found.$float === "string") return { nan: NaN, inf: Infinity, "-inf": -Infinity }[found.$float];
  return found;
}

async function run(handlers, { args, kwargs, ...call }) {
  try {
    if (!Object.hasOwn(handlers, call.task)) throw new Error(`${call.task} is not among the tasks`);
    await handlers[call.task](args, kwargs, call);
    return { id: call.id, status: "complete" };
  } catch (error) {
    if (error instanceof Retry) return { id: call.id, status: "retry", error: error.message.slice(0, 1000) };
    console.error(error);
    return { id: call.id, status: "failure", error: String(error).slice(0, 1000) };
  }
}

// Runs tasks, one after the other, until the worker ends. console.log writes to stderr: stdout is for answers.
export async function tasks(handlers) {
  globalThis.console = new Console(process.stderr);
  process.stdin.setEncoding("utf8");
  let rest = "";
  for await (const chunk of process.stdin) {
    const lines = chunk.split("\n"); // not readline: to it U+2028 is the end of a line, too
    lines[0] = rest + lines[0];
    rest = lines.pop();
    for (const line of lines) {
      const answer = await run(handlers, JSON.parse(line, value));
      process.stdout.write(JSON.stringify(answer) + "\n");
    }
  }
}
