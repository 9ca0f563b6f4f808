// Keeps an item while its page is open, with what is written about it, and says so when it is lost.

const LONGEST = 60000; // between two signs of life, in ms
const RETRY = 5000; // after a failure, in ms
const PATIENCE = 10000; // for an answer, in ms
const SOON = 1500; // after a change, in ms

const TEXTS = {
  lost: "This item is not open for you any more: it was decided, put back, or went to somebody else.",
  erased: "This clip was erased, with all that was written about it.",
  "signed-out": "You are signed out. Sign in again in another tab, and this page goes on; what you wrote is still here.",
  somebody: "Somebody else has signed in in this browser. Sign in as yourself in another tab, and this page goes on.",
  offline: "There is no connection to the review desk. Trying again; your note is still here.",
};
const OVER = ["lost", "erased"];

export class Claim {
  /**
   * @param banner says what is wrong.
   * @param draft what is written about the item.
   * @param onchange called with the new state.
   * @param player of its audio, if it has any: who listens is at work.
   */
  constructor({ item, lease, reviewer }, banner, draft, onchange, player) {
    this.url = `/items/${item}/heartbeat`;
    this.reviewer = reviewer;
    this.interval = Math.min((Number(lease) * 1000) / 3, LONGEST);
    this.banner = banner;
    this.draft = draft;
    this.onchange = onchange;
    this.player = player;
    this.state = "held";
    this.wait();
    draft.onchange = () => this.wait(SOON);
    // Timers rest in hidden tabs and in sleeping machines.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && !this.isOver) this.check();
    });
    addEventListener("pagehide", () => {
      if (draft.isChanged || (player && player.heard.asText() !== "[]")) fetch(this.url, { ...this.request(), keepalive: true });
    });
    addEventListener("beforeunload", (event) => {
      if (draft.isChanged && !this.isOver) event.preventDefault();
    });
  }

  get isOver() {
    return OVER.includes(this.state);
  }

  wait(pause = this.state === "held" ? this.interval : Math.min(RETRY, this.interval)) {
    clearTimeout(this.timer);
    if (!this.isOver) this.timer = setTimeout(() => this.check(), pause);
  }

  /** Give a sign of life; returns whether the item is still ours and the desk answers. */
  async check() {
    clearTimeout(this.timer);
    this.become(await this.ask());
    this.wait(this.draft.isChanged && this.state === "held" ? SOON : undefined);
    return this.state === "held";
  }

  request() {
    const headers = { "X-CSRF-Token": document.querySelector("meta[name=csrf]").content };
    const body = this.draft.asForm();
    if (this.player) body.set("heard", this.player.heard.asText());
    return { method: "POST", headers, body };
  }

  async ask(isSecond = false) {
    const version = this.draft.version;
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const url = this.player?.audio.paused === false ? `${this.url}?playing=1` : this.url;
      const request = this.request();
      const answer = await fetch(url, { ...request, signal });
      if (answer.ok) {
        this.player?.heard.told(request.body.get("heard"));
        this.draft.keptUpTo(version);
        return "held";
      }
      if (answer.status === 409) return "lost";
      if (answer.status === 410) return "erased";
      if (![401, 403].includes(answer.status)) return "offline";
      const renewed = isSecond ? "signed-out" : await this.renew(signal);
      return renewed === "held" ? this.ask(true) : renewed;
    } catch {
      return "offline";
    }
  }

  /** Take over the session that was begun in another tab, if it is the same person's. */
  async renew(signal) {
    const answer = await fetch("/session", { signal });
    if (!answer.ok) return "signed-out";
    const { name, csrf } = await answer.json();
    if (name !== this.reviewer) return "somebody";
    document.querySelector("meta[name=csrf]").content = csrf;
    for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrf;
    return "held";
  }

  become(state) {
    if (state === this.state) return;
    this.state = state;
    this.banner.hidden = state === "held";
    this.banner.querySelector("p").textContent = TEXTS[state] ?? "";
    const when = state === "somebody" ? "signed-out" : state;
    for (const link of this.banner.querySelectorAll("a"))
      link.hidden = !link.dataset.when.split(" ").includes(when);
    this.onchange(state);
  }
}
