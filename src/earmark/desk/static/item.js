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

for (const button of document.querySelectorAll("[data-open]"))
  button.addEventListener("click", () => at(button.dataset.open).showModal());
commands.p = { do: () => at("policy").showModal() };
commands["?"] = { do: () => at("help").showModal() };

let player;
const transcript = new Transcript(document.querySelector(".transcript"), (time) => player?.playFrom(time));
commands.h = { do: () => transcript.toggle() };

if (at("player")) {
  player = new Player(at("player"), item, (time) => transcript.mark(time));
  const step = (by) => transcript.step(by, player.audio.currentTime);
  const slower = { do: () => player.changeSpeed(-1) };
  const faster = { do: () => player.changeSpeed(1) };
  Object.assign(commands, {
    " ": { do: () => player.toggle() },
    ArrowLeft: { do: () => player.skip(-5), repeats: true },
    ArrowRight: { do: () => player.skip(5), repeats: true },
    ",": slower, "[": slower,
    ".": faster, "]": faster,
    j: { do: () => step(1) },
    k: { do: () => step(-1) },
    m: { do: () => player.mute() },
  });
}

if (at("decide")) {
  const claim = new Claim(item, Number(lease), at("claim"), (possible) => {
    decision.enable(possible);
    if (possible) announce("Connected again.");
  });
  const decision = new Decision(at("decide"), at("skip"), () => claim.check());
  const verdict = (name) => ({ do: () => decision.press(name), decides: true });
  Object.assign(commands, {
    r: verdict("reportable"),
    n: verdict("not reportable"),
    u: verdict("unsure"),
    s: { do: () => at("skip").showModal() },
    w: { do: () => decision.flag("transcript_wrong") },
    a: { do: () => decision.flag("not_speech") },
    l: { do: () => decision.flag("wrong_language") },
    t: { do: () => at("note").focus() },
  });
  for (let number = 1; number < 10; number += 1)
    commands[number] = { do: () => decision.category(number) };
  at("note").addEventListener("keydown", ({ key }) => key === "Escape" && at("note").blur());
  at("copy-note").addEventListener("click", async () => {
    at("note").select();
    await navigator.clipboard?.writeText(at("note").value).catch(() => {});
    announce("The note is copied.");
  });
}

obey(at("keys-on"));
listen(commands, announce);
