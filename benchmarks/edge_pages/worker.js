// One candidate: z -> image with the stored noise maps, mapping network included, by cagc or by onnxruntime-web.
import { load, runThread } from "./cagc.js";

const read = async name => (await fetch(name)).arrayBuffer();
let draw = null,
  memory = null, // bytes of our runtime
  latents = [];

onmessage = async ({ data }) => {
  if (data.kind === "thread") return runThread(data);
  try {
    if (data.start) postMessage(await start(data));
    else postMessage(await run(data.count));
  } catch (error) {
    postMessage({ failed: String(error.stack ?? error) });
  }
};

async function start({ program, variant, threads, model }) {
  const z = new Float32Array(await read(`${model}.z`)),
    length = new Uint32Array(await read(`${model}.size`))[0];
  for (let at = 0; at < z.length; at += length) latents.push(z.slice(at, at + length));
  const from = performance.now();
  if (program === "cagc") await startOurs(variant, threads, `${model}.cagc`);
  else await startOnnx(threads, `${model}.onnx`);
  const ready = performance.now() - from;
  let images = [];
  for (const latent of latents) images = images.concat(await draw(latent, true));
  return { ready, images, memory: memory && memory() };
}

async function startOurs(variant, threads, file) {
  const startThread = message => new Worker("worker.js", { type: "module" }).postMessage(message);
  const runtime = await load({
    module: () => read(`${variant}.wasm`),
    threads,
    startThread: threads > 1 ? startThread : null,
  });
  if (runtime.threads !== threads) throw new Error(`got ${runtime.threads} threads, expected ${threads}`);
  const generator = runtime.open(new Uint8Array(await read(file)));
  const size = generator.resolution ** 2;
  memory = () => runtime.memory.buffer.byteLength;
  draw = (z, all) => {
    const pixels = generator.draw(generator.map(z));
    return all && Array.from({ length: 3 * size }, (_, i) => pixels[(i % size) * 4 + Math.floor(i / size)]);
  };
}

async function startOnnx(threads, file) {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
  const session = await ort.InferenceSession.create(await read(file), { executionProviders: ["wasm"] });
  draw = async (z, all) => {
    const { image } = await session.run({ z: new ort.Tensor("float32", z, [1, z.length]) });
    return all && Array.from(image.data, v => Math.round(Math.min(255, Math.max(0, v * 127.5 + 127.5))));
  };
}

async function run(count) {
  const times = [];
  for (let i = 0; i < count; i++) {
    const from = performance.now();
    await draw(latents[i % latents.length], false);
    times.push(performance.now() - from);
  }
  return { times };
}
