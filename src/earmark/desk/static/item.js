// The page of an item: brings its parts together.

import { Claim } from "./claim.js";
import { Decision } from "./decision.js";
import { announce } from "./page.js";
import { Player } from "./player.js";
import { listen, obey } from "./shortcuts.js";
import { Transcript } from "./transcript.js";

const at = (id) => document.getElementById(id);
const { item, lease } = document.querySelector("main").dataset;
const commands = {};

const open = (id) => at(id).showModal();

for (const button of document.querySelectorAll("[data-open]"))
  button.addEventListener("click", () => open(button.dataset.open));

let player;
const transcript = new Transcript(document.querySelector(".transcript"), (time) => player?.playFrom(time));
Object.assign(commands, {
  h: () => transcript.toggle(),
  p: () => open("policy"),
  "?": () => open("help"),
});

if (at("player")) {
  player = new Player(at("player"), item, (time) => transcript.mark(time));
  const step = (by) => transcript.step(by, player.audio.currentTime);
  Object.assign(commands, {
    " ": () => player.toggle(),
    ArrowLeft: () => player.skip(-5),
    ArrowRight: () => player.skip(5),
    ",": () => player.changeSpeed(-1),
    ".": () => player.changeSpeed(1),
    j: () => step(1),
    k: () => step(-1),
    m: () => player.mute(),
  });
}

if (at("decide")) {
  const claim = new Claim(
    item,
    Number(lease),
    at("claim"),
    (possible) => {
      decision.enable(possible);
      if (possible) announce("Connected again.");
    },
    () => player?.audio.paused === false,
  );
  const note = at("note");
  // Undoing leaves this item, and what was written about it.
  at("undo")?.addEventListener("submit", (event) => {
    const written = note.value.trim() && note.value !== note.defaultValue;
    if (!written || event.submitter === at("drop-note")) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // it is no decision yet
    open("drop");
  });
  const decision = new Decision(at("decide"), at("skip"), () => claim.check());
  Object.assign(commands, {
    r: () => decision.press("reportable"),
    n: () => decision.press("not reportable"),
    u: () => decision.press("unsure"),
    s: () => document.querySelector("[data-open=skip]").click(),
    w: () => decision.flag("transcript_wrong"),
    a: () => decision.flag("not_speech"),
    l: () => decision.flag("wrong_language"),
    t: () => note.focus(),
  });
  for (let number = 1; number < 10; number += 1)
    commands[number] = () => decision.category(number);
  const showCopy = () => (at("copy-note").hidden = !note.value);
  showCopy();
  note.addEventListener("input", showCopy);
  note.addEventListener("keydown", ({ key }) => key === "Escape" && note.blur());
  at("copy-note").addEventListener("click", async () => {
    note.select();
    try {
      await navigator.clipboard.writeText(note.value);
      announce("The note is copied.");
    } catch {
      announce("The note is marked; copy it.");
    }
  });
}

obey(at("keys-on"));
listen(commands, announce);
