// Sends a photograph to the server of this page; shows each model's classes and maps for it.

const SHOWN_CLASSES = 8; // before one searches
const FOUND_CLASSES = 12;
const MEANINGS = {
  "combined": "Red adds to the score of the class, blue takes from it: bottom-up times top-down.",
  "bottom-up": "Where the model looks, whichever class is asked for.",
  "top-down": "What speaks for the class (red) or against it (blue), wherever the model looks.",
  "joints": "The highest peak of each joint’s heatmap; with several people, joints may be of different ones.",
};

const element = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}\u00a0%`; // does not wrap
const kind = () => document.querySelector("input[name=kind]:checked").value;

let server = { models: [], upload_bytes: 0 };
let cards = []; // one for each model: its answer, its part of the page and the chosen class
let answered = ""; // the status of the shown answer
let asking = new AbortController();
let stream = null; // of the camera

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("gap_jax serve does not answer; is it still running?");
  }
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

async function ask(file) {
  if (!file) return;
  asking.abort();
  asking = new AbortController();
  const name = file.name || "the photograph";
  const began = performance.now();
  element("error").textContent = "";
  try {
    if (file.size > server.upload_bytes) {
      throw new Error(`it is larger than ${server.upload_bytes / 2 ** 20} MB; shrink it`);
    }
    document.body.classList.add("busy");
    element("status").textContent = `Looking at ${name} …`;
    const body = await file.arrayBuffer().catch(() => { // a folder, or a file that was deleted
      throw new Error("it cannot be read; choose a photograph");
    });
    const answer = await request("answers", { method: "POST", body, signal: asking.signal });
    show(answer, name, (performance.now() - began) / 1000);
  } catch (error) {
    if (error.name === "AbortError") return; // another photograph was sent
    element("status").textContent = answered;
    element("error").textContent = `${name}: ${error.message}`;
  }
  document.body.classList.remove("busy");
}

function show(answer, name, seconds) {
  cards = server.models.map((model, index) => makeCard(model, answer, index, name));
  element("models").replaceChildren(...cards.map((card) => card.root));
  element("models").style.setProperty("--ratio", answer.width / answer.height);
  element("result").hidden = false;
  document.body.classList.add("answered");
  const firsts = cards.map(({ model, classes: [[best, probability]] }) =>
    `${cards.length > 1 ? `${model.name}: ` : ""}${best}, ${percent(probability)}`);
  element("status").textContent = answered = `${firsts.join("; ")} (${name}, ${seconds.toFixed(1)} s)`;
  const hasJoints = answer.answers.some(({ missing }) => !("joints" in missing));
  const joints = document.querySelector("input[value=joints]");
  joints.disabled = !hasJoints;
  if (joints.checked && joints.disabled) document.querySelector("input[value=combined]").checked = true;
  drawAll();
}

function makeCard(model, answer, index, name) {
  const root = element("card").content.cloneNode(true).firstElementChild;
  const card = { model, root, name, details: {}, path: `answers/${answer.id}/${index}`, ...answer.answers[index] };
  const part = (selector) => root.querySelector(selector);
  root.setAttribute("aria-label", model.name);
  part("h2").textContent = model.name;
  part(".about").textContent = model.about;
  part(".note").textContent = model.note;
  part(".photo").src = `answers/${answer.id}/photo`;
  card.chosen = card.classes[0];
  const search = part("input[type=search]");
  part(".find span").textContent = card.classes.length.toLocaleString("en");
  part(".find").hidden = card.classes.length <= SHOWN_CLASSES;
  search.addEventListener("input", () => listClasses(card, search.value));
  part(".layer").addEventListener("load", () => root.classList.remove("waiting"));
  part(".layer").addEventListener("error", () => miss(card, "the map could not be loaded"));
  listClasses(card, "");
  return card;
}

function listClasses(card, wanted) {
  const word = wanted.trim().toLowerCase();
  const found = word ? card.classes.filter(([name]) => name.toLowerCase().includes(word)) : card.classes;
  const shown = found.slice(0, word ? FOUND_CLASSES : SHOWN_CLASSES);
  if (!word && !shown.includes(card.chosen)) shown.push(card.chosen);
  const items = shown.map((each) => {
    const [name, probability] = each;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...["name", "value", "fill"].map((part) => {
      const span = document.createElement("span");
      span.className = part;
      return span;
    }));
    button.children[0].textContent = button.children[0].title = name;
    button.children[1].textContent = percent(probability);
    button.children[2].style.width = `${100 * probability}%`;
    button.setAttribute("aria-pressed", each === card.chosen);
    button.addEventListener("click", () => choose(name));
    button.dataset.name = name;
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  const list = card.root.querySelector("ul");
  list.replaceChildren(...items);
  list.dataset.empty = items.length ? "" : `No class contains “${wanted.trim()}”.`;
}

function choose(name) {
  for (const card of cards) { // models that know the class show it side by side
    card.chosen = card.classes.find(([each]) => each === name) ?? card.chosen;
    for (const button of card.root.querySelectorAll("li button")) {
      button.setAttribute("aria-pressed", button.dataset.name === card.chosen[0]);
    }
  }
  drawAll();
}

function describe(shown, name) {
  if (shown === "joints") return "The joints";
  return shown === "bottom-up" ? "The bottom-up map" : `The ${shown} map of ${name}`;
}

function drawAll() {
  element("meaning").textContent = MEANINGS[kind()];
  element("result").dataset.kind = kind();
  cards.forEach(draw);
}

async function draw(card) {
  const shown = kind();
  const [name, , index] = card.chosen;
  const path = `${card.path}/${index}`;
  const source = card.source = `${path}/${shown}`;
  if (shown in card.missing) {
    miss(card, card.missing[shown]);
    return;
  }
  card.root.classList.add("waiting");
  try {
    card.details[path] ??= await request(path);
    if (card.source !== source) return; // another map was asked for meanwhile
    const { one, text } = card.details[path][shown];
    const title = describe(shown, name);
    const parts = [`${title}: ${text}`, one ? `; 1 stands for ${one}` : "", "."];
    if (one && card.is_cropped) parts.push(" The margins without colour are outside the model’s view.");
    caption(card, parts.join(""), `${card.name} under ${title.toLowerCase()}: ${text}`);
    card.root.querySelector(".layer").hidden = false;
    card.root.querySelector(".layer").src = source;
  } catch (error) {
    if (card.source === source) miss(card, error.message);
  }
}

function miss(card, reason) {
  caption(card, reason, card.name);
  card.root.classList.remove("waiting");
  card.root.querySelector(".layer").hidden = true;
}

function caption(card, text, alt) {
  card.root.querySelector("figcaption").textContent = text;
  card.root.querySelector(".photo").alt = alt;
}

function setOpacity() {
  const value = element("opacity").value;
  element("percent").textContent = `${value} %`;
  element("models").style.setProperty("--opacity", value / 100);
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) { // not on 127.0.0.1, or a browser without it
    element("capture").click();
    return;
  }
  element("error").textContent = "";
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    element("video").srcObject = stream;
    element("shutter").showModal();
  } catch (error) {
    const isAbsent = error.name === "NotFoundError";
    element("error").textContent = isAbsent
      ? "No camera was found; choose a photograph."
      : `The camera cannot be used (${error.message}); choose a photograph.`;
  }
}

function takePhotograph() {
  const video = element("video");
  if (!video.videoWidth) return; // the camera is still starting
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => ask(new File([blob], "camera.jpg")), "image/jpeg", 0.95);
  element("shutter").close();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  element("video").srcObject = stream = null;
}

function listenForDrops() {
  let depth = 0; // of the elements that the pointer is over
  const mark = (change) => {
    depth = change ? depth + change : 0;
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", () => mark(1));
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(0);
    ask(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => ask(event.clipboardData.files[0]));
}

function listen() {
  for (const id of ["file", "capture"]) {
    element(id).addEventListener("change", (event) => {
      ask(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
  }
  element("camera").addEventListener("click", openCamera);
  element("take").addEventListener("click", takePhotograph);
  element("cancel").addEventListener("click", () => element("shutter").close());
  element("shutter").addEventListener("close", closeCamera);
  element("kinds").addEventListener("change", drawAll);
  element("opacity").addEventListener("input", setOpacity);
  listenForDrops();
}

async function start() {
  listen();
  setOpacity();
  try {
    server = await request("models");
    const names = new Intl.ListFormat("en").format(server.models.map(({ name }) => name));
    element("lead").textContent = `Bottom-up and top-down attention of ${names}, on your photograph.`;
    document.body.classList.add("ready");
  } catch (error) {
    element("error").textContent = error.message;
  }
}

start();
