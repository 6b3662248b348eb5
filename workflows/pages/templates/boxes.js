// Boxes of an image: drawn along an object, chosen by a click, changed by keys. Every change is sent with all boxes of
// the image, and what the server has written is shown.
"use strict";
const sky = document.getElementById("sky");
const problem = document.getElementById("problem");
const saved = document.getElementById("saved");
const LEAST_PX = 3;
let boxes = state.boxes;
let isSeen = state.is_seen;
let past = [];
let kind = state.kinds[0];
let confidence = 1;
let chosen = -1;
let before = -1;
let start = null;
let waiting = Promise.resolve();

// image rows count from below, those of the picture from above
const flip = (y) => state.height - 1 - y;
const corners = ({ x, y, length, width, angle }) => [[1, 1], [-1, 1], [-1, -1], [1, -1]].map(([a, b]) => [
  x + a * length / 2 * Math.cos(angle) - b * width / 2 * Math.sin(angle),
  y + a * length / 2 * Math.sin(angle) + b * width / 2 * Math.cos(angle)]);
const make = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return sky.appendChild(made);
};

const show = () => {
  sky.querySelectorAll("polygon, line").forEach((old) => old.remove());
  boxes.forEach((box, number) => {
    const points = corners(box).map(([x, y]) => `${x},${flip(y)}`).join(" ");
    const polygon = make("polygon", { points, class: number === chosen ? "chosen" : "" });
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${box.kind} ${box.confidence}` + (box.group >= 0 ? `, group ${box.group}` : "");
    polygon.append(title);
    polygon.onpointerdown = (event) => { event.stopPropagation(); choose(number); };
  });
  document.querySelectorAll("button[data-kind]").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.dataset.kind === (boxes[chosen]?.kind ?? kind))));
  document.querySelectorAll("button[data-confidence]").forEach((button) =>
    button.setAttribute("aria-pressed", String(Number(button.dataset.confidence) === (boxes[chosen]?.confidence ?? confidence))));
};
const choose = (number) => { before = chosen; chosen = number; show(); };

const send = () => {
  const body = JSON.stringify({ place: state.place, boxes });
  saved.textContent = "saving";
  waiting = waiting.then(async () => {
    try {
      const answer = await fetch("/boxes", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      saved.textContent = `${found.n} saved`;
      problem.hidden = true;
    } catch (error) {
      saved.textContent = "not saved";
      problem.hidden = false;
      problem.textContent = `Not saved: ${error.message}. If the server has ended, start it again and change any box.`;
    }
  });
};
const change = (make) => {
  past.push(JSON.stringify(boxes));
  make();
  isSeen = true;
  show();
  send();
};
const changeChosen = (make) => { if (boxes[chosen]) change(() => make(boxes[chosen])); };

const place = (event) => {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(sky.getScreenCTM().inverse());
  return [point.x, flip(point.y)];
};
sky.onpointerdown = (event) => { event.preventDefault(); sky.setPointerCapture(event.pointerId); start = place(event); };
sky.onpointermove = (event) => {
  if (!start) return;
  const [x, y] = place(event);
  sky.querySelectorAll("line").forEach((old) => old.remove());
  make("line", { x1: start[0], y1: flip(start[1]), x2: x, y2: flip(y) });
};
sky.onpointerup = (event) => {
  if (!start) return;
  const [x, y] = place(event), [x0, y0] = start;
  const length = Math.hypot(x - x0, y - y0);
  start = null;
  if (length < LEAST_PX) return choose(-1);
  let angle = Math.atan2(y - y0, x - x0);
  if (angle >= Math.PI / 2) angle -= Math.PI;
  if (angle < -Math.PI / 2) angle += Math.PI;
  change(() => {
    boxes.push({ x: (x + x0) / 2, y: (y + y0) / 2, length, width: Math.max(length / 3, LEAST_PX), angle, kind, confidence, group: -1 });
    before = chosen;
    chosen = boxes.length - 1;
  });
};

const connect = () => {
  const one = boxes[chosen], other = boxes[before];
  if (!one || !other || one === other) return;
  change(() => {
    if (other.group < 0) other.group = Math.max(-1, ...boxes.map((box) => box.group)) + 1;
    one.group = other.group;
  });
};
const undo = () => {
  if (!past.length) return;
  boxes = JSON.parse(past.pop());
  chosen = before = -1;
  show();
  send();
};
const press = ({ dataset }) => {
  if (dataset.kind) { kind = dataset.kind; changeChosen((box) => (box.kind = kind)); }
  else if (dataset.confidence) { confidence = Number(dataset.confidence); changeChosen((box) => (box.confidence = confidence)); }
  else if (dataset.widen) changeChosen((box) => (box.width *= Number(dataset.widen)));
  else if (dataset.connect !== undefined) connect();
  else if (dataset.remove !== undefined) changeChosen(() => { boxes.splice(chosen, 1); chosen = before = -1; });
  else if (dataset.undo !== undefined) undo();
  else if (dataset.empty !== undefined) { if (!boxes.length) change(() => {}); }
  else if (dataset.step) {
    const { number, n } = document.body.dataset, next = Number(number) + Number(dataset.step);
    if (next >= 1 && next <= Number(n)) waiting.then(() => location.assign(`/image/${next}`));
  }
  show();
};
const buttons = [...document.querySelectorAll("button")];
buttons.forEach((button) => (button.onclick = () => { press(button); button.blur(); }));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key === "Backspace" ? "Delete" : event.key;
  const button = buttons.find((one) => one.dataset.key === key);
  if (button) press(button);
});
saved.textContent = isSeen ? `${boxes.length} saved` : "nobody looked at it yet";
show();
