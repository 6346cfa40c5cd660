// Package javastore reads the store folder of a Java RocketMQ broker (4.9 and 5.x), and writes those of its files that tell of
// topics, groups and offsets, so that a Java broker loads what it reads here.
//
// Order of reading: config.go (the JSON of config/), commitlog.go (the messages), then the small files: consumequeue.go (where
// queues begin), timercheck.go (how far the timer wheel is), folder.go (what a whole folder holds).
//
// Facts: RocketMQ 5.5 broker, store and common; the file names and forms are the same in 4.9, which knows fewer fields.
// Nothing here writes into a store folder, and nothing here knows Cairn's own store.
package javastore
