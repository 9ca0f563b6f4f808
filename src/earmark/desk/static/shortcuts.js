// Keys of one letter or sign. They rest while somebody writes, and can be switched off for good
// (WCAG 2.1.4).

const OFF = "earmark.keys-off";
const REPEATING = ["ArrowLeft", "ArrowRight"]; // when held
const DECIDING = ["r", "n", "u", "z"];
const SOON = 300; // ms after a page appeared no key decides: it was meant for the last one

/** Whether a key belongs to what has the focus. */
function isTaken({ target, key }) {
  if (target.closest("textarea, select")) return true;
  if (target.matches("input:not([type=checkbox], [type=range])")) return true;
  if (key === " ") return Boolean(target.closest("button, a, summary, input:not([type=range])"));
  return key.startsWith("Arrow") && target.matches(".volume");
}

const began = performance.now();
const areOn = () => localStorage.getItem(OFF) === null;
const show = () => document.documentElement.classList.toggle("no-keys", !areOn());

show();

/** Let a box switch the keys. */
export function obey(box) {
  box.checked = areOn();
  box.addEventListener("change", () => {
    if (box.checked) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
    show();
  });
}

/**
 * Listen for keys.
 *
 * @param commands functions by key (letters small); what they return is announced.
 * @param announce says what a key did.
 */
export function listen(commands, announce) {
  document.addEventListener("keydown", (event) => {
    if (!areOn() || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (event.defaultPrevented || isTaken(event) || document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!Object.hasOwn(commands, key) || (event.repeat && !REPEATING.includes(key))) return;
    event.preventDefault();
    if (DECIDING.includes(key) && performance.now() - began < SOON) return;
    const said = commands[key]();
    if (said) announce(said);
  });
}
