// What a hostile Node.js function does. Outside a sandbox the same file is the control: `index.js ATTEMPT JSON`.
// Every attempt answers `[did, detail]`.

"use strict";
const { spawn, spawnSync } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const net = require("node:net");
const path = require("node:path");

const attempts = {
  nothing: () => "nothing",
  read: ({ path }) => fs.readFileSync(path).subarray(0, 64).toString("latin1"),
  write: ({ path }) => fs.closeSync(fs.openSync(path, "a")),
  list: ({ path }) => fs.readdirSync(path).length,
  names: ({ path }) => JSON.stringify(fs.readdirSync(path)),
  signal: ({ pid }) => process.kill(pid, 0),
  become_root: () => tool("setpriv", ["--reuid", "0", "true"]),
  remount: () => tool("unshare", ["-Urm", "mount", "-t", "tmpfs", "x", "/tmp"]),
  user_namespace: () => tool("unshare", ["-U", "true"]),
  foreign_variables: ({ pid }) => fs.readFileSync(`/proc/${pid}/environ`).length,

  fork_bomb: ({ processes }) => new Promise((resolve, reject) => {
    const script = `i=0; while [ $i -lt ${processes} ]; do sleep 60 & i=$((i+1)); done; echo $i`;
    const shell = spawn("sh", ["-c", script], { detached: true, stdio: ["ignore", "pipe", "ignore"] });
    let said = "";
    // The sleepers hold the pipe open, so the shell's own exit is what counts.
    shell.stdout.on("data", (piece) => { said += piece; if (said.includes("\n")) finish(); });
    shell.on("exit", () => setTimeout(finish, 200));
    shell.on("error", reject);
    const finish = () => {
      try { process.kill(-shell.pid, "SIGKILL"); } catch { /* all gone */ }
      said.trim() ? resolve(said.trim()) : reject(new Error("the shell could not fork"));
    };
  }),

  memory_bomb: async ({ megabytes }) => {
    const held = [];
    for (let i = 0; i < megabytes; i += 1) held.push(Buffer.alloc(1 << 20, 1));
    await new Promise((resolve) => setTimeout(resolve, 300));
    return held.length;
  },

  fill: ({ folder, megabytes }) => {
    const file = path.join(folder, "fill");
    const descriptor = fs.openSync(file, "w");
    const piece = Buffer.alloc(1 << 20, 1);
    let written = 0;
    try {
      while (written < megabytes) { fs.writeSync(descriptor, piece); written += 1; }
    } catch (error) {
      throw new Error(`${error.code} after ${written} MiB`);
    } finally {
      fs.closeSync(descriptor);
      fs.unlinkSync(file);
    }
    return written;
  },

  connect: ({ host, port }) => new Promise((resolve, reject) => {
    const connection = net.connect({ host, port, timeout: 2000 });
    connection.on("data", (text) => {
      connection.destroy();
      text.includes("host") ? resolve(text.toString()) : reject(new Error("somebody else"));
    });
    connection.on("timeout", () => connection.destroy(new Error("silence")));
    connection.on("error", reject);
    connection.on("close", () => reject(new Error("closed")));
  }),

  http: ({ host, port = 80, path, headers = {} }) => new Promise((resolve, reject) => {
    const request = http.get({ host, port, path, headers, timeout: 3000 }, (answer) => {
      let text = "";
      answer.on("data", (piece) => { text += piece; });
      answer.on("end", () => (answer.statusCode === 200 ? resolve(text) : reject(new Error(`${answer.statusCode} ${text}`))));
    });
    request.on("timeout", () => request.destroy(new Error("silence")));
    request.on("error", reject);
  }),

  flood: ({ megabytes }) => {
    const line = "x".repeat(999);
    for (let i = 0; i < megabytes * 1000; i += 1) console.log(line);
    return megabytes;
  },

  daemon: () => {
    spawn("sh", ["-c", "trap '' TERM HUP INT; sleep 1000; sleep 1000"], { detached: true, stdio: "ignore" }).unref();
    return fs.readlinkSync("/proc/self/ns/pid");
  },

  spin: () => { for (;;) { /* for ever */ } },
};

/** Runs a program of the host's, which is also there in a sandbox, and fails as it does. */
function tool(name, words) {
  const done = spawnSync(name, words, { encoding: "utf8", timeout: 5000 });
  if (done.error) throw done.error;
  if (done.status !== 0) throw new Error(done.stderr || `ended with ${done.status}`);
  return done.stdout;
}

async function run(name, event) {
  try {
    return [true, String(await attempts[name](event))];
  } catch (error) {
    return [false, String(error.message || error)];
  }
}

exports.handler = (event) => run(event.attempt, event);

if (require.main === module) {
  run(process.argv[2], JSON.parse(process.argv[3])).then((outcome) => console.log(JSON.stringify(outcome)));
}
