// Keys and buttons of a candidate. A label is sent with the name of the candidate on this page, and the next page opens
// only after the server has written it down.
"use strict";
const { candidate, number, n } = document.body.dataset;
const problem = document.getElementById("problem");
let confidence = 100;
let isBusy = false;

const send = async (address, values) => {
  if (isBusy) return;
  isBusy = true;
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify(values) });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    location.assign(found.next);
  } catch (error) {
    isBusy = false;
    problem.hidden = false;
    problem.textContent = `Not saved: ${error.message}. If the server has ended, start it again; all labels are kept.`;
  }
};

const press = (button) => {
  const { label, kind, confidence: chosen, undo, step } = button.dataset;
  if (label) send("/label", { candidate_id: candidate, label, kind, confidence });
  else if (undo !== undefined) send("/undo", {});
  else if (step) {
    const place = Number(number) + Number(step);
    if (!isBusy && place >= 1 && place <= Number(n)) location.assign(`/candidate/${place}`);
  } else {
    confidence = Number(chosen);
    document.querySelectorAll("button[data-confidence]").forEach((other) =>
      other.setAttribute("aria-pressed", String(other === button)));
  }
};

const buttons = [...document.querySelectorAll("button")];
buttons.forEach((button) => (button.onclick = () => { press(button); button.blur(); }));
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const button = buttons.find((one) => one.dataset.key === event.key);
  if (button) press(button);
});
addEventListener("pageshow", () => (isBusy = false));
