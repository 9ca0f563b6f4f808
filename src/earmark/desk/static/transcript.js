// The transcript in pieces: which one is being played, and where a click leads.

export class Transcript {
  /** @param play called with a time in seconds from which to play. */
  constructor(root, play) {
    this.text = root.querySelector(".text");
    this.button = root.querySelector("#reveal");
    this.segments = [...root.querySelectorAll(".segment")].map((element) => ({
      element,
      start: Number(element.dataset.start),
      end: Number(element.dataset.end),
    }));
    this.play = play;
    this.current = -1;
    this.button?.addEventListener("click", () => this.toggle());
    for (const { element, start } of this.segments)
      element.addEventListener("click", ({ target }) => {
        // Who marks words wants to copy them.
        if (target.closest("button") || getSelection().isCollapsed) play(start);
      });
  }

  /** Hide or show the text. */
  toggle() {
    if (!this.button) return "There is no text";
    this.text.hidden = !this.text.hidden;
    this.button.setAttribute("aria-expanded", !this.text.hidden);
    this.button.querySelector("span").textContent = `${this.text.hidden ? "Show" : "Hide"} the text`;
    return this.text.hidden ? "Text hidden" : "Text shown";
  }

  /** Mark what is said at a position in seconds. */
  mark(seconds) {
    const found = this.segments.findIndex(({ start, end }) => start <= seconds && seconds < end);
    if (found === this.current) return;
    this.segments[this.current]?.element.removeAttribute("aria-current");
    this.current = found;
    if (found < 0) return;
    const { element } = this.segments[found];
    element.setAttribute("aria-current", "true");
    const above = element.offsetTop - this.text.offsetTop;
    const { scrollTop, clientHeight } = this.text;
    if (above < scrollTop || above + element.offsetHeight > scrollTop + clientHeight)
      this.text.scrollTop = above - clientHeight / 3;
  }

  /** Play the next piece (1) or the one before (-1), as seen from a position in seconds. */
  step(by, seconds) {
    const begun = this.segments.findLastIndex(({ start }) => start <= seconds + 0.05);
    const target = this.segments[Math.max(0, begun + by)];
    if (target) this.play(target.start);
  }
}
