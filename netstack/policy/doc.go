// Package policy decides who may talk to whom.
package policy
