package broker

import (
	"math"
	"strconv"
	"time"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// delayWish is what a message's properties ask for, in the order in which one wins over the next. The values alias the
// properties; nil where there is none.
type delayWish struct {
	level   int32  // of DELAY, 0 for none
	sec     []byte // TIMER_DELAY_SEC, from now
	ms      []byte // TIMER_DELAY_MS, from now
	deliver []byte // TIMER_DELIVER_MS, since 1970
	// done says that the broker has noted the due time of a timer, so the message has had its delay: what a consumer sends
	// back is not held up once more.
	done bool
}

// see takes note of one property. A level that is no number is none.
func (w *delayWish) see(key string, value []byte) {
	switch key {
	case message.PropDelayLevel:
		level, err := strconv.ParseInt(string(value), 10, 32)
		if w.level = int32(level); err != nil || level < 0 {
			w.level = 0
		}
	case message.PropTimerDelaySec:
		w.sec = value
	case message.PropTimerDelayMs:
		w.ms = value
	case message.PropTimerDeliver:
		w.deliver = value
	case message.PropTimerOut:
		w.done = true
	}
}

// asks says whether the message is to be delayed at all.
func (w *delayWish) asks() bool {
	return w.level > 0 || !w.done && (w.sec != nil || w.ms != nil || w.deliver != nil)
}

// wishOf is what all properties of a message ask for.
func wishOf(props []byte) (w delayWish) {
	message.EachProperty(props, func(key, value []byte) bool {
		w.see(string(key), value)
		return true
	})
	return w
}

// dueTime is when a message becomes visible that asks for it at the time now (ms), and its delay level, 0 when it has a time of its
// own. A level beyond the last counts as the last. What is not after now means at once. CodeMessageIllegal, CodeDelayTooLong.
func (b *Broker) dueTime(w *delayWish, now int64) (due int64, level int32, err error) {
	due, level, err = w.dueAt(now, b.opts.DelayLevels)
	if longest := now + b.opts.MaxDelay.Milliseconds(); err == nil && level == 0 && due > longest {
		return 0, 0, refuse(CodeDelayTooLong, "delivery at %s is over the longest delay, %v: at %s it would end at %s",
			kvindex.FormatTime(due), b.opts.MaxDelay, kvindex.FormatTime(now), kvindex.FormatTime(longest))
	}
	return due, level, err
}

// dueOf is the due time (ms) of a message that was let in before, whatever the longest delay is by now.
func (b *Broker) dueOf(props []byte, now int64) int64 {
	w := wishOf(props)
	due, _, err := w.dueAt(now, b.opts.DelayLevels)
	if err != nil {
		return now
	}
	return due
}

func (w *delayWish) dueAt(now int64, levels delay.Levels) (due int64, level int32, err error) {
	switch {
	case w.level > 0:
		d, level := levels.Delay(w.level)
		return now + d.Milliseconds(), level, nil
	case !w.asks():
		return now, 0, nil
	case w.sec != nil:
		due, err = after(now, w.sec, time.Second.Milliseconds())
	case w.ms != nil:
		due, err = after(now, w.ms, 1)
	default:
		due, err = after(0, w.deliver, 1)
	}
	return due, 0, err
}

// after is base (ms) and as many units (ms) as a property says, as far as numbers go.
func after(base int64, value []byte, unit int64) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	switch {
	case err != nil:
		return 0, refuse(CodeMessageIllegal, "%.40q is no time of delivery", value)
	case n > (math.MaxInt64-base)/unit:
		return math.MaxInt64, nil
	}
	return base + max(n, -base/unit)*unit, nil // nothing is before 1970
}
