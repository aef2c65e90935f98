// The event debugger: asks for verdicts that are new and puts them on top. Everything that came in is shown as text.

const EVERY_MS = 1000;
const LINES = 300;

const body = document.querySelector("tbody");
const state = document.querySelector("#state");
const rejected = document.querySelector("#rejected");
const paused = document.querySelector("#paused");
let after = 0;
let asked = 0;

function cell(text) {
  const found = document.createElement("td");
  found.textContent = text ?? "";
  return found;
}

function row({ at, verdict, event_id, reason, body: content }) {
  const found = document.createElement("tr");
  found.className = verdict;
  const moment = at.replace("T", " ").replace(/Z$/, "").slice(0, 23);
  found.append(cell(moment), cell(verdict), cell(event_id), cell(reason), cell(content));
  return found;
}

async function look() {
  if (paused.checked) return;
  const number = ++asked;
  const query = new URLSearchParams({ after, limit: LINES, rejected: rejected.checked });
  try {
    const response = await fetch(`../../events/verdicts?${query}`);
    if (!response.ok) throw new Error(`the service answered ${response.status}`);
    const { verdicts } = await response.json();
    if (number !== asked) return; // another question was asked meanwhile
    for (const verdict of verdicts) {
      body.prepend(row(verdict));
      after = verdict.number;
    }
    while (body.children.length > LINES) body.lastChild.remove();
    state.textContent = body.children.length ? "" : "Nothing has come in yet.";
  } catch (error) {
    state.textContent = `The log cannot be read: ${error.message}`;
  }
}

rejected.addEventListener("change", () => {
  after = 0;
  body.replaceChildren();
  look();
});
look();
setInterval(look, EVERY_MS);
