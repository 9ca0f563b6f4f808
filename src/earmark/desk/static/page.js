// What every page does: suggests a break, takes a decision back, names languages.

import { listen } from "./shortcuts.js";

/** Let a screen reader say something. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

// A page that comes back from memory no longer tells the truth.
addEventListener("pageshow", ({ persisted }) => persisted && location.reload());

const REST = 10 * 60 * 1000; // after "not now", in ms

const reminder = document.getElementById("break");
if (reminder && Date.now() - Number(sessionStorage.getItem("earmark.break") ?? 0) > REST) {
  reminder.hidden = false;
  reminder.querySelector("button").addEventListener("click", () => {
    sessionStorage.setItem("earmark.break", Date.now());
    reminder.hidden = true;
    document.getElementById("main").focus();
  });
}

const undo = document.querySelector("#undo button");
if (undo) listen({ z: () => undo.click() }, announce);

const names = new Intl.DisplayNames(["en"], { type: "language" });
for (const element of document.querySelectorAll("[data-language]")) {
  try {
    element.textContent = names.of(element.dataset.language);
  } catch {
    // It is no language code: it stays as it is.
  }
}
