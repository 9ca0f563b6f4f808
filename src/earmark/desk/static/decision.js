// What is decided about an item, or done instead, sent once and only while the item is ours.

export class Decision {
  /**
   * @param form with the verdicts.
   * @param skip the dialog with the reasons.
   * @param draft what is written about the item.
   * @param player of its audio, if it has any.
   * @param check resolves to whether the item is ours and the desk answers.
   */
  constructor(form, skip, draft, player, check) {
    this.form = form;
    this.skip = skip;
    this.draft = draft;
    this.wasHeard = () => !player || player.heard.any || form.dataset.heard === "true";
    this.check = check;
    this.problem = document.getElementById("decide-problem");
    this.busy = false;
    const skipForm = skip.querySelector(".choices");
    this.buttons = [...document.querySelectorAll("[data-acts]")];
    for (const each of new Set(this.buttons.flatMap(({ form }) => form ?? [])))
      each.addEventListener("submit", (event) => this.submit(event));
    skipForm.addEventListener("formdata", ({ formData }) => {
      for (const [name, value] of new FormData(form))
        if (["note", "transcript_wrong", "not_speech", "wrong_language"].includes(name))
          formData.set(name, value);
    });
    form.addEventListener("change", () => {
      if (this.hasCategory) this.problem.hidden = true;
    });
    // A key that is held down presses no button twice.
    addEventListener("keydown", (event) => {
      if (event.repeat && ["Enter", " "].includes(event.key) && event.target.closest("button")) event.preventDefault();
    });
    skip.addEventListener("keydown", (event) => this.choose(event));
  }

  get hasCategory() {
    return this.form.querySelector("[name=categories]:checked") !== null;
  }

  /** Make decisions, and what else acts on the item, possible or not. */
  enable(possible) {
    for (const button of this.buttons) {
      button.disabled = !possible;
      if (!possible) button.closest("dialog")?.close();
    }
  }

  /** Press a verdict's button, as a key does. */
  press(verdict) {
    const button = this.buttons.find(({ value }) => value === verdict);
    if (!button.disabled) this.form.requestSubmit(button);
  }

  /** Turn a box on or off, as a key does. */
  flip(box) {
    if (!box) return undefined;
    box.click();
    return `${box.nextSibling.textContent}: ${box.checked ? "on" : "off"}`;
  }

  category(number) {
    return this.flip(this.form.querySelectorAll("[name=categories]")[number - 1]);
  }

  flag(name) {
    return this.flip(this.form.elements[name]);
  }

  choose(event) {
    const button = this.skip.querySelectorAll("[name=reason]")[Number(event.key) - 1];
    if (!button || button.disabled || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    event.preventDefault();
    button.form.requestSubmit(button);
  }

  /** Say why nothing is decided, and go to where it can be mended. */
  refuse(text, place) {
    this.skip.close();
    this.problem.textContent = text;
    this.problem.hidden = false;
    if (place) this.form.querySelector(place)?.focus();
  }

  async submit(event) {
    if (this.sure) return;
    event.preventDefault();
    const { target, submitter } = event;
    if (this.busy || !submitter) return;
    this.problem.hidden = true;
    const decides = ["verdict", "reason"].includes(submitter.name);
    if (submitter.value === "reportable" && !this.hasCategory)
      return this.refuse("Choose at least one category that it falls under.", "[name=categories]");
    if (decides && this.draft.isTooLong) return this.refuse(this.draft.tooMuch, "#note");
    if (submitter.name === "verdict" && !this.wasHeard() && !this.wasAsked) {
      this.wasAsked = true;
      return this.refuse("You have not played this clip. Decide again to do so without hearing it; the record will say so.");
    }
    this.busy = true;
    // A browser's own page about a lost connection would take the note with it.
    if (await this.check()) {
      this.sure = true;
      target.requestSubmit(submitter);
      this.sure = false;
    } else {
      this.busy = false;
    }
  }
}
