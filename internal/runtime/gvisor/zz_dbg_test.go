package gvisor
import ("testing";"os";"fmt";"github.com/agentsandbox/agentsandbox";"strings")
func TestDbgFork(t *testing.T){
 h:=newHostWith(t,func(o*Options){o.DebugDir=os.Getenv("DBG")})
 lim:=testLimits
 fmt.Sscan(os.Getenv("TASKS"),&lim.Tasks)
 fmt.Sscan(os.Getenv("MEM"),&lim.MemoryBytes)
 sb:=h.start(lim).(*sandbox)
 max:=0
 stop:=make(chan struct{})
 go func(){ for { select{case <-stop:return;default:}; b,_:=os.ReadFile("/sys/fs/cgroup/pids/"+GroupName(h.stateDir)+"/"+sb.ID()+"/pids.current"); n:=0; fmt.Sscan(strings.TrimSpace(string(b)),&n); if n>max {max=n} } }()
 out,err:=try(t.Context(),sb,agentsandbox.Python,`
import os, signal
n = 0
try:
    while True:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        n += 1
        if n%50==0: print(n,flush=True)
except OSError as e:
    print(e.errno, n, flush=True)
os.kill(0, signal.SIGKILL)`)
 close(stop)
 u,_:=sb.Usage()
 t.Log(out,err,max,u)
}
