// The page: its controls say what to draw, and the worker draws it.
"use strict";
(() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const $ = id => document.getElementById(id),
    all = selector => [...document.querySelectorAll(selector)];
  const strip = $("strip"),
    lists = { directions: [], layers: [] };
  const times = { student: [], teacher: [] },
    tiles = new Map();
  const state = { a: settings.seeds[0], b: settings.seeds[1], playing: false, id: 0, ready: null, teacher: false };
  const travel = { phase: 0, last: 0 };
  let worker = null;

  const fail = reason => {
    $("notice").textContent = reason;
    $("notice").hidden = false;
    all(".loading").forEach(box => {
      box.hidden = true;
    });
    state.playing = false;
  };

  function start() {
    const lacking = ["Worker", "DecompressionStream", "WebAssembly"].find(name => typeof window[name] === "undefined");
    if (lacking)
      return fail(`This browser has no ${lacking}. Chrome 91, Firefox 113, Safari 16.4 and newer draw this page.`);
    if (!settings.single && location.protocol === "file:")
      return fail(
        "This folder has to come from a web server, such as: python -m http.server. The single-file form opens without one.",
      );
    const files = {};
    for (const [name, url] of Object.entries(settings.files)) {
      const element = $(`file-${name}`);
      files[name] = settings.single ? { text: element.textContent } : { url: new URL(url, document.baseURI).href };
      element?.remove(); // its text is memory too
    }
    const source = settings.single && new Blob([$("worker").textContent], { type: "text/javascript" });
    worker = source ? new Worker(URL.createObjectURL(source)) : new Worker("worker.js", { type: "module" });
    worker.onerror = event => fail(`The worker stopped: ${event.message ?? "it could not be loaded"}`);
    worker.onmessage = ({ data }) => hear[data.kind](data);
    worker.postMessage({
      kind: "open",
      files,
      threads: Math.min(settings.threads, navigator.hardwareConcurrency || 1),
    });
  }

  const hear = {
    failed: ({ reason }) => fail(`Nothing can be drawn: ${reason}`),
    progress: ({ stage, share }) => {
      if (stage === "teacher") return ($("teacher-progress").value = share);
      $("stage").textContent = stage === "weights" ? "Reading the weights" : "Preparing the weights";
      $("progress").value = share;
    },
    ready: info => {
      state.ready = info;
      ["student", "face-a", "face-b"].forEach(id => resize($(id), info.resolution));
      $("loading").hidden = true;
      buildDirections(info.directions);
      buildLayers(info.numWs);
      document.querySelector("input[value=const]").disabled = !info.hasNoise;
      const variant = { simd: "SIMD", relaxed: "relaxed SIMD", threads: `relaxed SIMD, ${info.threads} threads` }[
        info.variant
      ];
      $("about").textContent =
        `${settings.about} Runtime ${info.version}: ${variant}; ready after ${info.milliseconds.toFixed(0)} ms.` +
        (info.components
          ? ` Images are drawn from ${info.components} principal components of w: the file carries no mapping network.`
          : "");
      reset();
      buildStrip();
      if (!settings.files.teacher) measure();
    },
    teacher: ({ resolution }) => {
      state.teacher = true;
      resize($("teacher"), resolution);
      $("teacher-loading").hidden = true;
      draw();
      measure();
    },
    image: ({ who, id, pixels, milliseconds }) => {
      paint($(who), pixels);
      $(who).dataset.drawn = id;
      time(who, milliseconds);
      if (state.playing && id === state.id && who === (showsTeacher() ? "teacher" : "student"))
        requestAnimationFrame(step);
    },
    thumbnail: ({ name, pixels }) => paint($(name) ?? tiles.get(name), pixels),
    time: ({ who, milliseconds }) => time(who, milliseconds),
  };

  function time(who, milliseconds) {
    times[who].push(milliseconds);
    if (times[who].length > 40) times[who].shift();
    showTime(who);
    if (who === "student" || !showsTeacher()) return;
    showTime("student");
  }

  const resize = (canvas, size) => {
    canvas.width = canvas.height = size;
  };
  const paint = (canvas, pixels) => {
    const context = canvas?.getContext("2d", { willReadFrequently: true }); // its pixels come from the CPU anyway
    context?.putImageData(new ImageData(pixels, canvas.width, canvas.height), 0, 0);
  };

  // The mean of the middle half: clocks of browsers tick in steps of up to a millisecond, and a median would hide it.
  function typical(values) {
    const sorted = [...values].sort((x, y) => x - y),
      cut = sorted.length >> 2,
      middle = sorted.slice(cut, sorted.length - cut);
    return middle.reduce((sum, value) => sum + value, 0) / middle.length;
  }

  function showTime(who) {
    if (times[who].length < 8) return; // the first images are slow: the browser still optimises the code
    const ms = typical(times[who]),
      bold = document.createElement("b"),
      rate = document.createElement("span");
    bold.textContent = `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
    const beside = who === "student" && showsTeacher() && times.teacher.length >= 8;
    rate.textContent = beside
      ? `${(typical(times.teacher) / ms).toFixed(1)}× faster`
      : `${(1000 / ms).toFixed(ms > 100 ? 1 : 0)} images/s`;
    $(`${who}-time`).replaceChildren(bold, rate);
  }

  const showsTeacher = () => state.teacher && $("both").getAttribute("aria-pressed") === "true";
  const noise = () => document.querySelector("input[name=noise]:checked").value;

  function draw() {
    if (!state.ready) return;
    document.body.dataset.asked = ++state.id;
    worker.postMessage({
      kind: "draw",
      id: state.id,
      a: state.a,
      b: state.b,
      morph: +$("morph").value,
      psi: +$("psi").value,
      strengths: lists.directions.map(slider => +slider.value),
      fromB: lists.layers.map(button => button.getAttribute("aria-pressed") === "true"),
      noise: noise(),
      noiseSeed: state.id,
      teacher: showsTeacher(),
      patient: state.playing,
    });
  }

  function thumbnails(names) {
    const seeds = names.map(([name, seed]) => ({ name, seed, psi: +$("psi").value, noise: noise() }));
    worker.postMessage({ kind: "thumbnails", seeds });
  }

  const measure = () => worker.postMessage({ kind: "measure" });

  // Sliders show their value, and a double click puts one back.
  function bind(slider, digits) {
    const output = document.querySelector(`output[for=${slider.id}]`);
    const share = value => (100 * (value - slider.min)) / (slider.max - slider.min);
    slider.show = () => {
      const ends = [share(Math.max(0, slider.min)), share(slider.value)].sort((x, y) => x - y);
      ["--from", "--to"].forEach((name, i) => slider.style.setProperty(name, `${ends[i]}%`));
      output.textContent = (+slider.value).toFixed(digits);
    };
    slider.oninput = () => {
      slider.show();
      draw();
    };
    slider.ondblclick = () => set(slider, slider.defaultValue);
    slider.show();
  }

  function set(slider, value) {
    slider.value = value;
    slider.show();
    draw();
  }

  function buildDirections(names) {
    $("edits").hidden = !names.length;
    names.forEach((name, index) => {
      const row = document.createElement("div"),
        label = document.createElement("label");
      const slider = document.createElement("input"),
        output = document.createElement("output");
      Object.assign(slider, { id: `direction-${index}`, type: "range", min: -3, max: 3, step: 0.05, defaultValue: 0 });
      ((row.className = "slider"),
        (label.htmlFor = slider.id),
        (label.textContent = name),
        (output.htmlFor = slider.id));
      row.append(label, slider, output);
      $("directions").append(row);
      bind(slider, 2);
      lists.directions.push(slider);
    });
  }

  function buildLayers(count) {
    for (let layer = 0; layer < count; layer++) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: layer + 1, ariaPressed: "false" });
      button.setAttribute("aria-label", `Layer ${layer + 1} from image B`);
      button.onclick = () => {
        toggle(button);
        draw();
      };
      $("layers").append(button);
      lists.layers.push(button);
    }
  }

  const toggle = (button, on = button.getAttribute("aria-pressed") !== "true") =>
    button.setAttribute("aria-pressed", on);

  function buildStrip() {
    const names = settings.seeds.map(seed => {
      const button = document.createElement("button"),
        canvas = document.createElement("canvas");
      resize(canvas, state.ready.resolution);
      Object.assign(button, { type: "button", title: `Seed ${seed}` });
      button.setAttribute("aria-label", `Image of seed ${seed}`);
      button.dataset.seed = seed;
      button.append(canvas);
      button.onclick = () => choose({ a: seed });
      strip.append(button);
      tiles.set(`tile-${seed}`, canvas);
      return [`tile-${seed}`, seed];
    });
    mark();
    thumbnails(names);
  }

  const mark = () => all("#strip button").forEach(button => toggle(button, +button.dataset.seed === state.a));

  function choose({ a = state.a, b = state.b }) {
    const changed = [
      ["face-a", a, state.a],
      ["face-b", b, state.b],
    ].filter(([, now, before]) => now !== before);
    Object.assign(state, { a, b });
    (($("seed-a").value = a), ($("seed-b").value = b));
    mark();
    draw();
    thumbnails(changed.map(([name, seed]) => [name, seed]));
  }

  function move(by) {
    stop();
    if (+$("morph").value) set($("morph"), 0);
    choose({ a: (state.a + by + 2 ** 32) % 2 ** 32 });
  }

  function reset() {
    stop();
    [$("morph"), $("psi"), ...lists.directions].forEach(slider => {
      slider.value = slider.defaultValue;
      slider.show();
    });
    lists.layers.forEach(button => toggle(button, false));
    document.querySelector(`input[value=${state.ready?.hasNoise === false ? "none" : "const"}]`).checked = true;
    Object.assign(state, { a: -1, b: -1 });
    choose({ a: settings.seeds[0], b: settings.seeds[1] });
  }

  function play(on = !state.playing) {
    state.playing = on && state.ready !== null;
    toggle($("play"), state.playing);
    $("play-label").textContent = state.playing ? "Stop" : "Morph";
    ((travel.phase = +$("morph").value), (travel.last = performance.now()));
    if (state.playing) step();
  }

  const stop = () => {
    if (state.playing) play(false);
  };

  // One picture of the morph, two seconds from image to image; B then becomes A, and a new image B comes.
  function step() {
    if (!state.playing) return;
    const now = performance.now();
    ((travel.phase += Math.min(0.25, (now - travel.last) / 2000)), (travel.last = now));
    if (travel.phase >= 1) {
      travel.phase = 0;
      $("morph").value = 0;
      $("morph").show();
      choose({ a: state.b, b: Math.floor(Math.random() * 2 ** 31) });
      return; // choose() has asked for the picture
    }
    const t = travel.phase;
    set($("morph"), t * t * (3 - 2 * t));
  }

  function save() {
    $("student").toBlob(blob => {
      const link = document.createElement("a");
      ((link.href = URL.createObjectURL(blob)), (link.download = `image-${state.a}.png`));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, "image/png");
  }

  function both() {
    if (!state.teacher) return;
    toggle($("both"));
    $("teacher-figure").hidden = !showsTeacher();
    showTime("student");
    draw();
  }

  function seedTyped(input, which) {
    const seed = Math.floor(+input.value);
    if (input.value === "" || !(seed >= 0 && seed < 2 ** 32)) return void (input.value = state[which]);
    choose({ [which]: seed });
  }

  const actions = {
    previous: () => move(-1),
    next: () => move(1),
    play: () => play(),
    both,
    save,
    reset,
    swap: () => choose({ a: state.b, b: state.a }),
  };
  for (const [id, action] of Object.entries(actions)) if ($(id)) $(id).onclick = action;
  (bind($("morph"), 2), bind($("psi"), 2));
  $("seed-a").onchange = event => seedTyped(event.target, "a");
  $("seed-b").onchange = event => seedTyped(event.target, "b");
  all("input[name=noise]").forEach(input => {
    input.onchange = draw;
  });
  all("[data-range]").forEach(button => {
    button.onclick = () => {
      const [first, last] = button.dataset.range.split(" ").map(share => Math.round(share * lists.layers.length));
      lists.layers.forEach((layer, index) => toggle(layer, index >= first && index < last));
      draw();
    };
  });
  $("morph").addEventListener("pointerdown", stop);

  const keys = { ArrowLeft: "previous", ArrowRight: "next", " ": "play", t: "both", s: "save", r: "reset" };
  document.addEventListener("keydown", event => {
    // What the control with the focus does with the key goes first.
    const own =
      event.target.closest("input[type=number]") ||
      (event.key.length !== 1 && event.target.closest("input")) ||
      (event.key === " " && event.target.closest("button, input, summary"));
    if (own || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    actions[keys[event.key]]();
  });
  let swipe = null;
  const pictures = document.querySelector(".pictures");
  pictures.addEventListener("pointerdown", event => {
    swipe = [event.clientX, event.clientY];
  });
  pictures.addEventListener("pointerup", event => {
    if (!swipe) return;
    const [x, y] = [event.clientX - swipe[0], event.clientY - swipe[1]];
    swipe = null;
    if (Math.abs(x) > 40 && Math.abs(x) > 2 * Math.abs(y)) move(x < 0 ? 1 : -1);
  });
  pictures.addEventListener("pointercancel", () => {
    swipe = null;
  });
  start();
})();
