// While an answer is on its way only the newest question waits: what was asked in between is of no use any more.

export function newestOnly(ask) {
  let running = false;
  let waiting = null;
  return async function question(...words) {
    if (running) {
      waiting = words;
      return;
    }
    running = true;
    let next = words;
    try {
      while (next) {
        waiting = null;
        await ask(...next);
        next = waiting;
      }
    } finally {
      running = false;
    }
  };
}

export function afterPause(milliseconds, act) {
  let timer = 0;
  return (...words) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...words), milliseconds);
  };
}

// Shows a refusal beside the control that caused it, and takes it away again.
export function complaints(place, control = null) {
  return {
    say(error) {
      place.textContent = error.message;
      control?.setAttribute("aria-invalid", "true");
    },
    clear() {
      place.textContent = "";
      control?.removeAttribute("aria-invalid");
    },
  };
}
