// The C interface of the runtime (csrc/include/cagc/c_api.h) for JavaScript, in pages, workers and Node:
//
//   import { latent, load } from "./cagc.js";
//   const read = async name => (await fetch(name)).arrayBuffer();
//   const runtime = await load({ module: name => read(`${name}.wasm`) });
//   const generator = runtime.open(new Uint8Array(await read("student.cagc")));
//   const ws = generator.map(latent(3, generator.zDim), 0.7);
//   const image = new ImageData(generator.draw(ws), generator.resolution);

const NOISE = { none: 0, const: 1, seeded: 2 };
const RGBA8 = 1;

// The smallest modules that hold an instruction of each kind: f32x4.neg, and the fused multiply-add of relaxed SIMD.
const MAGIC = [0, 97, 115, 109, 1, 0, 0, 0];
const PROBES = {
  simd: [...MAGIC, 1, 6, 1, 96, 1, 123, 1, 123, 3, 2, 1, 0, 10, 9, 1, 7, 0, 32, 0, 253, 225, 1, 11],
  relaxed: [
    ...MAGIC,
    1,
    8,
    1,
    96,
    3,
    123,
    123,
    123,
    1,
    123,
    3,
    2,
    1,
    0,
    10,
    13,
    1,
    11,
    0,
    32,
    0,
    32,
    1,
    32,
    2,
    253,
    133,
    2,
    11,
  ],
};

// What this browser lacks, for people to read; null if nothing.
export function missing() {
  if (typeof WebAssembly !== "object") return "this browser does not run WebAssembly";
  if (!has("simd"))
    return "this browser has no SIMD instructions in WebAssembly; Chrome 91, Firefox 89, Safari 16.4 and newer do";
  return null;
}

// The compiled variant to load: "threads" (relaxed SIMD, where memory can be shared), "relaxed" or "simd".
export function chooseVariant(threads = 1) {
  if (!has("relaxed")) return "simd";
  return threads > 1 && globalThis.crossOriginIsolated && typeof SharedArrayBuffer === "function"
    ? "threads"
    : "relaxed";
}

function has(kind) {
  return WebAssembly.validate(new Uint8Array(PROBES[kind]));
}

// Standard normal deviates: those of torch.randn(count, generator=torch.Generator().manual_seed(seed)) for a `count` of
// at least 16, so that a seed draws the face that `cagc generate --seeds` draws.
export function latent(seed, count) {
  const next = mersenne(seed),
    uniform = () => (next() & 0xffffff) / 0x1000000;
  const values = Float32Array.from({ length: Math.max(count, 16) }, uniform);
  const pairs = at => {
    for (let i = at; i < at + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i])),
        angle = 2 * Math.PI * values[i + 8];
      ((values[i] = radius * Math.cos(angle)), (values[i + 8] = radius * Math.sin(angle)));
    }
  };
  for (let i = 0; i + 16 <= values.length; i += 16) pairs(i);
  if (values.length % 16) {
    // the last 16 are drawn again
    for (let i = values.length - 16; i < values.length; i++) values[i] = uniform();
    pairs(values.length - 16);
  }
  return values.subarray(0, count);
}

// The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998): a function that returns 32 random bits.
function mersenne(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  const renew = () => {
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at === 624) renew();
    let y = state[at++];
    ((y ^= y >>> 11), (y ^= (y << 7) & 0x9d2c5680), (y ^= (y << 15) & 0xefc60000));
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// Compiles and starts a variant. `module(name)` gives the bytes of "simd", "relaxed" or "threads", or a promise of them.
// `threads`: how many to compute with, where memory can be shared; `startThread(message)` then starts a worker that
// passes the message to runThread().
export async function load({ module, threads = 1, startThread = null }) {
  const lacking = missing();
  if (lacking) throw new Error(lacking);
  const name = startThread ? chooseVariant(threads) : chooseVariant();
  const compiled = await WebAssembly.compile(await module(name));
  const shared = name === "threads" ? new WebAssembly.Memory({ initial: 1024, maximum: 32768, shared: true }) : null;
  const exports = instantiate(compiled, shared);
  exports._initialize?.();
  const runtime = new Runtime(exports, shared ?? exports.memory, name, shared ? threads : 1);
  for (let number = 1; number < runtime.threads; number++)
    startThread(threadMessage(runtime, compiled, shared, number));
  while (shared && exports.cagc_web_workers() < runtime.threads - 1) await new Promise(done => setTimeout(done, 1));
  return runtime;
}

// What a thread's worker needs: the module, its memory, and a stack and thread-local storage in it.
function threadMessage(runtime, module, memory, number) {
  const { __tls_size: size, __tls_align: align } = runtime.exports;
  const stackBytes = 1 << 18,
    boundary = Math.max(16, align?.value ?? 16);
  const stack = (runtime.allocate(stackBytes + 16) + stackBytes) & ~15;
  const storage = (runtime.allocate((size?.value ?? 0) + boundary) + boundary - 1) & ~(boundary - 1);
  return { kind: "thread", module, memory, number, stack, storage };
}

// The body of a thread's worker, which never returns.
export function runThread({ module, memory, number, stack, storage }) {
  const exports = instantiate(module, memory);
  exports.__stack_pointer.value = stack;
  exports.__wasm_init_tls?.(storage);
  exports.cagc_web_worker(number);
}

// An instance of the module. Of the system calls that it imports only the clock does anything.
function instantiate(module, memory) {
  let exports = null;
  const view = () => new DataView((memory ?? exports.memory).buffer);
  const calls = {
    clock_time_get: (id, precision, at) => {
      view().setBigUint64(at, BigInt(Math.round(performance.now() * 1e6)), true);
      return 0;
    },
    proc_exit: code => {
      throw new Error(`the runtime ended with code ${code}`);
    },
  };
  const imports = { env: memory ? { memory } : {} };
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module))
    if (kind === "function") (imports[from] ??= {})[name] = calls[name] ?? (() => 52); // "not supported"
  exports = new WebAssembly.Instance(module, imports).exports;
  return exports;
}

class Runtime {
  constructor(exports, memory, variant, threads) {
    Object.assign(this, { exports, memory, variant, threads });
  }

  get version() {
    return this.text(this.exports.cagc_version());
  }

  // Opens a flat student file; throws an Error that says why it cannot.
  open(file) {
    const at = this.allocate(file.byteLength);
    this.bytes(at, file.byteLength).set(file);
    try {
      const handle = this.call("cagc_open_memory", at, file.byteLength, this.threads);
      if (!handle) throw this.error();
      return new Generator(this, handle);
    } finally {
      this.exports.free(at);
    }
  }

  // Calls a function of the C interface. The instance stops at once where it finds no memory.
  call(name, ...values) {
    try {
      return this.exports[name](...values);
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      throw new Error(`${name}: the runtime stopped, for lack of memory or by a fault of its own (${error.message})`);
    }
  }

  check(name, ...values) {
    if (this.call(name, ...values) !== 0) throw this.error();
  }

  error() {
    return new Error(this.text(this.exports.cagc_last_error()) || "the runtime gives no reason");
  }

  allocate(size) {
    const at = this.call("malloc", Math.max(size, 1));
    if (!at) throw new Error(`memory: got none, expected ${size} bytes`);
    return at;
  }

  // Views of the instance's memory. They end when it grows: use them before the next call.
  bytes(at, count) {
    return new Uint8Array(this.memory.buffer, at, count);
  }
  floats(at, count) {
    return new Float32Array(this.memory.buffer, at, count);
  }

  text(at) {
    if (!at) return "";
    const bytes = new Uint8Array(this.memory.buffer, at),
      end = bytes.indexOf(0);
    return new TextDecoder().decode(bytes.slice(0, end)); // a copy: shared memory cannot be decoded
  }
}

class Generator {
  constructor(runtime, handle) {
    const ask = name => runtime.call(name, handle);
    Object.assign(this, {
      runtime,
      handle,
      zDim: ask("cagc_z_dim"),
      wDim: ask("cagc_w_dim"),
      numWs: ask("cagc_num_ws"),
      resolution: ask("cagc_resolution"),
      hasMapping: !!ask("cagc_has_mapping"),
      hasNoise: !!ask("cagc_has_noise"),
      plan: runtime.text(ask("cagc_plan")),
      licence: runtime.text(ask("cagc_licence")),
    });
    this.wAvg = runtime.floats(ask("cagc_w_avg"), this.wDim).slice();
    this.directions = Array.from({ length: ask("cagc_direction_count") }, (_, i) => ({
      name: runtime.text(runtime.call("cagc_direction_name", handle, i)),
      scale: runtime.call("cagc_direction_scale", handle, i),
      vector: runtime.floats(runtime.call("cagc_direction", handle, i), this.wDim).slice(),
    }));
    this.imageBytes = runtime.call("cagc_image_bytes", handle, RGBA8);
    const sizes = { z: 4 * this.zDim, ws: 4 * this.wDim * this.numWs, image: this.imageBytes };
    this.at = Object.fromEntries(Object.entries(sizes).map(([name, size]) => [name, runtime.allocate(size)]));
  }

  // ws [numWs * wDim] of z [zDim], the first `cutoff` of them truncated by `psi`; all if it is negative.
  map(z, psi = 1, cutoff = -1) {
    if (z.length !== this.zDim) throw new Error(`z: got ${z.length} numbers, expected ${this.zDim}`);
    this.runtime.floats(this.at.z, this.zDim).set(z);
    this.runtime.check("cagc_map", this.handle, this.at.z, 1, psi, cutoff, this.at.ws);
    return this.runtime.floats(this.at.ws, this.numWs * this.wDim).slice();
  }

  // The image of ws [numWs * wDim] as RGBA bytes, row by row. `noise`: none, const or seeded.
  draw(ws, { noise = this.hasNoise ? "const" : "none", seed = 0 } = {}) {
    const count = this.numWs * this.wDim;
    if (ws.length !== count) throw new Error(`ws: got ${ws.length} numbers, expected ${count}`);
    if (!(noise in NOISE)) throw new Error(`noise: got ${noise}, expected ${Object.keys(NOISE).join(", ")}`);
    this.runtime.floats(this.at.ws, count).set(ws);
    this.runtime.check("cagc_synthesize", this.handle, this.at.ws, 1, NOISE[noise], seed, RGBA8, this.at.image, 0, 0);
    return new Uint8ClampedArray(this.runtime.memory.buffer, this.at.image, this.imageBytes).slice();
  }

  close() {
    Object.values(this.at).forEach(at => this.runtime.exports.free(at));
    this.runtime.call("cagc_close", this.handle);
  }
}
