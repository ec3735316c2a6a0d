// The worker that draws: it holds the runtime, the student and its teacher, so that the page stays free and no two
// images are timed at once. In the single-file page cagc.js stands before this text instead of being imported.
import { latent, load, runThread } from "./cagc.js";

let student = null,
  teacher = null,
  wanted = null,
  busy = false;
const known = new Map(); // seed → w
const thumbnails = []; // seeds to draw when nothing else is asked for
let last = null; // request that was drawn last
let timings = 0; // pictures still to be drawn for their times alone

onmessage = async ({ data }) => {
  if (data.kind === "thread") return runThread(data);
  try {
    if (data.kind === "open") await open(data);
    if (data.kind === "thumbnails") thumbnails.push(...data.seeds);
    if (data.kind === "draw") wanted = data;
    if (data.kind === "measure") timings = 24;
    if (student && !busy) await work();
  } catch (error) {
    postMessage({ kind: "failed", reason: String(error.message ?? error) });
  }
};

// The bytes of a file that is a URL, or text. `tell(share)` hears how much has arrived.
async function read({ url, text }, tell = () => {}) {
  if (text !== undefined) return unpack(text, tell);
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: the server answered ${answer.status}`);
  const size = +answer.headers.get("Content-Length"),
    parts = [],
    reader = answer.body.getReader();
  for (let done = 0, part; !(part = await reader.read()).done;) {
    (parts.push(part.value), (done += part.value.length));
    tell(size ? Math.min(1, done / size) : 0);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// What as_text() of cagc/export/web/text.py packed: the length of a gzip stream of the even bytes and then the odd ones,
// a colon, and the stream, 13 bits in two characters.
async function unpack(text, tell) {
  const unzip = new DecompressionStream("gzip"),
    writer = unzip.writable.getWriter();
  const result = new Response(unzip.readable).arrayBuffer(),
    start = text.indexOf(":") + 1;
  const digits = new TextEncoder().encode(text.slice(start)),
    length = parseInt(text);
  const value = code => code - (code > 60 ? 34 : 33),
    step = 16 << 16; // 16 characters hold 13 bytes
  for (let from = 0; from < digits.length; from += step) {
    const part = digits.subarray(from, from + step),
      bytes = new Uint8Array(((part.length / 2) * 13) >> 3);
    for (let i = 0, at = 0, bits = 0, held = 0; i < part.length; i += 2) {
      bits = ((bits & 255) << 13) | (value(part[i]) * 93 + value(part[i + 1]));
      for (held += 13; held >= 8; held -= 8) bytes[at++] = bits >> (held - 8);
    }
    await writer.write(bytes.subarray(0, length - (from / 16) * 13));
    tell(Math.min(1, (from + step) / digits.length));
  }
  writer.close();
  const shuffled = new Uint8Array(await result),
    bytes = new Uint8Array(shuffled.length);
  const even = (shuffled.length + 1) >> 1;
  for (let i = 0; i < even; i++) bytes[2 * i] = shuffled[i];
  for (let i = even; i < shuffled.length; i++) bytes[2 * (i - even) + 1] = shuffled[i];
  return bytes;
}

async function open({ files, threads }) {
  const start = performance.now(),
    tell = (stage, share) => postMessage({ kind: "progress", stage, share });
  const startThread = message => {
    const worker = new Worker(location.href, { type: files.student.text === undefined ? "module" : "classic" });
    worker.postMessage(message);
  };
  const [runtime, weights] = await Promise.all([
    load({ module: name => read(files[name]), threads, startThread: files.threads ? startThread : null }),
    read(files.student, share => tell("weights", 0.8 * share)),
  ]);
  tell("opening", 0.85);
  student = runtime.open(weights);
  const { resolution, numWs, wDim, hasNoise, plan, directions } = student;
  postMessage({
    kind: "ready",
    resolution,
    numWs,
    hasNoise,
    plan,
    directions: directions.map(({ name }) => name),
    variant: runtime.variant,
    threads: runtime.threads,
    version: runtime.version,
    milliseconds: performance.now() - start,
    components: student.hasMapping ? 0 : wDim,
  });
  if (!files.teacher) return;
  await pause();
  if (wanted) await work();
  teacher = runtime.open(await read(files.teacher, share => tell("teacher", share)));
  if (teacher.numWs !== numWs || teacher.wDim !== wDim) throw new Error("teacher: its ws are not the student's");
  postMessage({ kind: "teacher", resolution: teacher.resolution });
}

const pause = () =>
  new Promise(done => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;
    port2.postMessage(null);
  });

async function work() {
  busy = true;
  try {
    const end = performance.now() + 3000; // on a slow device fewer
    while (wanted || thumbnails.length || timings) {
      if (wanted) await drawWanted();
      else if (thumbnails.length) thumbnail(thumbnails.shift());
      else ((timings = performance.now() < end ? timings - 1 : 0), measure());
      await pause(); // later requests replace earlier ones
    }
  } finally {
    busy = false;
  }
}

async function drawWanted() {
  const request = (last = wanted);
  wanted = null;
  const ws = compose(request);
  send("student", student, ws, request);
  if (!teacher || !request.teacher) return;
  await pause();
  if (!wanted || request.patient) send("teacher", teacher, ws, request);
}

function timed(generator, ws, { noise, noiseSeed }) {
  const start = performance.now(),
    stored = generator.hasNoise || noise !== "const";
  const pixels = generator.draw(ws, { noise: stored ? noise : "none", seed: noiseSeed });
  return { pixels, milliseconds: performance.now() - start };
}

function send(who, generator, ws, request) {
  const { pixels, milliseconds } = timed(generator, ws, request);
  postMessage({ kind: "image", who, id: request.id, pixels, milliseconds }, [pixels.buffer]);
}

// Student and teacher in turns, so that both are timed on the same machine in the same state.
function measure() {
  if (!last) return;
  const ws = compose(last);
  for (const [who, generator] of Object.entries({ student, teacher }))
    if (generator) postMessage({ kind: "time", who, milliseconds: timed(generator, ws, last).milliseconds });
}

function thumbnail({ name, psi, seed, noise }) {
  const ws = compose({ a: seed, b: seed, morph: 0, fromB: [], psi, strengths: [] });
  const pixels = student.draw(ws, { noise: noise === "seeded" ? "none" : noise });
  postMessage({ kind: "thumbnail", name, seed, pixels }, [pixels.buffer]);
}

// w [wDim] of a seed, not truncated: by the mapping network, or as standard normal components where the file has none.
function w(seed) {
  if (!known.has(seed)) {
    if (known.size > 200) known.delete(known.keys().next().value);
    const { hasMapping, zDim, wDim } = student, z = latent(seed, zDim);
    known.set(seed, hasMapping ? student.map(z).slice(0, wDim) : z);
  }
  return known.get(seed);
}

// ws of a request: between the images a and b by `morph`, in the layers of `fromB` that of b; then truncated, then moved
// along the directions.
function compose({ a, b, morph, fromB, psi, strengths }) {
  const { numWs, wDim, wAvg, directions } = student,
    from = w(a),
    to = w(b),
    ws = new Float32Array(numWs * wDim);
  const moved = new Float32Array(wDim);
  directions.forEach(({ scale, vector }, d) => {
    const amount = (strengths[d] ?? 0) * scale;
    if (amount) for (let i = 0; i < wDim; i++) moved[i] += amount * vector[i];
  });
  for (let layer = 0; layer < numWs; layer++) {
    const t = fromB[layer] ? 1 : morph;
    for (let i = 0; i < wDim; i++) {
      const u = from[i] + t * (to[i] - from[i]);
      ws[layer * wDim + i] = wAvg[i] + psi * (u - wAvg[i]) + moved[i];
    }
  }
  return ws;
}
