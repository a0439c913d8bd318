// SPDX-License-Identifier: Apache-2.0
import { createHash } from "node:crypto";
import { setTimeout } from "node:timers/promises";

import { Retry, tasks } from "./taskmill_worker.mjs";

await tasks({
  "node.digest": ([data], { expect }) => {
    const found = createHash("sha256").update(data).digest("hex");
    if (found !== expect) throw new Error(`it is ${found}`);
  },
  "node.flaky": ([times], _, call) => {
    console.log(`attempt ${call.attempt}, ${call.retries_left} left`); // goes to the worker's log
    if (call.attempt + 1 < times) throw new Retry("not in the mood");
  },
  "node.slow": ([seconds]) => setTimeout(seconds * 1000),
});
