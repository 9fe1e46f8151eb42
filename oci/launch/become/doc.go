// Package become turns a thread into a container's process: streams, limits, capabilities, user, filter, exec. It is the last
// thing that an init does, whether it has a Go runtime (package inside) or not (package quick), and there is one of it.
//
// So the rules of package quick hold for the code in here: no allocation, no map, no interface, no defer, raw system calls
// only. What does not work comes back as a Trouble, which has words and numbers and is made an error by who may allocate.
//
// The order of the steps is the caller's: it depends on no_new_privs, on labels, and on hooks.
package become
