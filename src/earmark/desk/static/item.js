// The page of an item: brings its parts together.

import { Claim } from "./claim.js";
import { Decision } from "./decision.js";
import { Draft } from "./draft.js";
import { announce } from "./page.js";
import { Player } from "./player.js";
import { listen, obey } from "./shortcuts.js";
import { Transcript } from "./transcript.js";

const at = (id) => document.getElementById(id);
const page = document.querySelector("main").dataset;
const POLICIES = "earmark.policies"; // open from item to item
const commands = {};

const open = (id) => at(id).showModal();

for (const button of document.querySelectorAll("[data-open]"))
  button.addEventListener("click", () => open(button.dataset.open));

/** Show the policies beside the text, or no longer. */
function showPolicies(shown) {
  at("policy").hidden = !shown;
  at("show-policy").setAttribute("aria-expanded", shown);
  sessionStorage.setItem(POLICIES, shown ? "1" : "");
  return shown ? "Policies shown" : "Policies hidden";
}
at("show-policy").addEventListener("click", () => showPolicies(at("policy").hidden));
showPolicies(Boolean(sessionStorage.getItem(POLICIES)));

let player;
const transcript = new Transcript(document.querySelector(".transcript"), (time) => player?.playFrom(time));
Object.assign(commands, {
  h: () => transcript.toggle(),
  p: () => showPolicies(at("policy").hidden),
  "?": () => open("help"),
});

if (at("player")) {
  player = new Player(at("player"), page.item, (time) => transcript.mark(time));
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
    "-": () => player.changeVolume(-1),
    "+": () => player.changeVolume(1),
  });
}

if (at("decide")) {
  const note = at("note");
  const draft = new Draft(at("decide"));
  const claim = new Claim(
    page,
    at("claim"),
    draft,
    (state) => {
      decision.enable(state === "held");
      if (state === "held") announce("Connected again.");
      if (state === "erased") clear();
    },
    player,
  );
  const decision = new Decision(at("decide"), at("skip"), draft, player, () => claim.check());
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

/** Take everything of an erased clip off the screen. */
function clear() {
  at("copy-note").hidden = true;
  player?.stop();
  for (const each of document.querySelectorAll(".work, dialog")) each.remove();
  for (const key of Object.keys(commands)) delete commands[key];
}

obey(at("keys-on"));
listen(commands, announce);
