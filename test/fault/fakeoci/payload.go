package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// wait is the container's first process until it is started.
func wait(fifo string) {
	f, err := os.Open(fifo)
	if err != nil {
		os.Exit(1)
	}
	defer f.Close()
	if n, _ := f.Read(make([]byte, 1)); n != 1 {
		os.Exit(1)
	}
}

// payload is what runs in a container: the command's words.
func payload(args []string) {
	if len(args) == 0 {
		args = []string{"sleep"}
	}
	switch args[0] {
	case "exit": // CODE [FILE]: once the file exists
		for len(args) > 2 {
			if _, err := os.Stat(args[2]); err == nil {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		code, err := strconv.Atoi(args[1])
		if err != nil {
			code = 99
		}
		os.Exit(code)
	case "ticks": // numbers, for ever
		for i := 1; ; i++ {
			fmt.Println(i)
			time.Sleep(5 * time.Millisecond)
		}
	case "count": // FILE: a line for each SIGTERM, which it does not heed
		count(args[1])
	case "say":
		fmt.Print(args[1])
	default:
		time.Sleep(time.Hour)
	}
}

func count(name string) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM)
	os.WriteFile(name, nil, 0o644)
	for range signals {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			os.Exit(98)
		}
		fmt.Fprintln(f, "SIGTERM")
		f.Close()
	}
}
