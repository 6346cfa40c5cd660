// Package javaimport brings what the store folder of a Java broker holds into a data folder of Cairn.
//
// It goes over the commitlog twice. The first time it only looks (plan.go, pops.go): where queues begin, which delayed and half
// messages are still waiting, what groups have popped and not acknowledged. Of that the commitlog alone tells; what other files say
// (consume queues, delayOffset.json, timercheck) tells what was deleted, and what is done although the log does not show it. The
// second time (import.go) it proposes each message to the store as a send would, with the time at which Java stored it: queue
// offsets come out as they were, and whatever is derived from time is as if Cairn had been there. Last come offsets and what is in
// flight (finish.go).
//
// How far it has got is written in the same proposal as the messages, under a key of the name server's configuration. So whatever
// ends an import, the next one goes on behind the last message that is there.
package javaimport
